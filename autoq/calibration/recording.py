"""What is kept of an operand while images run: a bounded sample of its values, and bounds over all images."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autoq.calibration.observers import Bounds, MinMaxObserver, create_observers
from autoq.calibration.settings import CalibrationSettings
from autoq.graph.sites import Operand
from autoq.quantizers.instance_groups import entry_bounds


@dataclass(frozen=True)
class OperandSample:
    """What calibration keeps of one activation operand.

    Attributes:
        values: of the sampled images, some of their tokens: the operand's shape with a shorter token axis.
        lower: least value over all images, per channel and head: the operand's ndim, other axes of size one.
        upper: greatest value, likewise.
        entry_bounds: for operands that can have instance-aware groups: least and greatest value of each entry of each
            sampled image, broadcastable against one window of ``values``; else None.
        further_entry_bounds: the same of further images, about as many as make ``sample_elements`` numbers.
        observed: by granularity, the bounds over all images that the settings' observer found, each of the operand's
            ndim; empty for observers that need no more than ``lower`` and ``upper``.
    """

    values: Tensor
    lower: Tensor
    upper: Tensor
    entry_bounds: tuple[Tensor, Tensor] | None
    further_entry_bounds: tuple[Tensor, Tensor] | None = None
    observed: Mapping[str, Bounds] = field(default_factory=dict)


class OperandRecorder(nn.Module):
    """Sits in a slot, passes its input on and remembers some of it."""

    def __init__(
        self, operand: Operand, settings: CalibrationSettings, name: str, *, keeps_values: bool = True
    ) -> None:
        """Start with nothing seen.

        Args:
            operand: what comes by.
            settings: how much is kept, and by which observer.
            name: chooses, with ``settings.seed``, the tokens that are kept.
            keeps_values: whether any are; else there are ranges alone.
        """
        super().__init__()
        self._keeps_values = keeps_values
        self._layout = operand.layout
        self._instances = max(operand.layout.instances_per_image, 1)
        self._images_left = settings.sample_images
        self._keeps_last_batch = settings.sample_last_batch
        self._token_axis = _token_axis(operand)
        self._tokens = _choose_tokens(operand, self._token_axis, settings, name)
        self._values: list[Tensor] = []
        self._entries: list[tuple[Tensor, Tensor]] = []
        self._further_entries: list[tuple[Tensor, Tensor]] = []
        self._further_left = settings.sample_elements
        kept = (operand.layout.channel_axis, operand.layout.head_axis)
        self._range = MinMaxObserver([axis for axis in kept if axis is not None])
        self._observers = create_observers(operand.layout, settings)

    def forward(self, x: Tensor) -> Tensor:
        """Look at one batch."""
        layout = self._layout
        for observer in (self._range, *self._observers.values()):
            observer.update(x)
        if not self._keeps_values:
            return x
        if self._keeps_last_batch:
            self._values, self._entries, self._images_left = [], [], x.shape[0] // self._instances
        count = min(self._images_left, x.shape[0] // self._instances)
        if count > 0:
            self._images_left -= count
            some = x[: count * self._instances]
            self._values.append(self._thin_out(some).float().clone())
            if layout.instance_group_axis is not None:
                self._entries.append(self._entry_bounds(some))
        further = x[count * self._instances :]
        if layout.instance_group_axis is not None and len(further) and self._further_left > 0:
            bounds = self._entry_bounds(further)
            images = max(1, self._further_left * len(bounds[0]) // bounds[0].numel())
            self._further_entries.append((bounds[0][:images], bounds[1][:images]))
            self._further_left -= bounds[0].numel()
        return x

    def _thin_out(self, x: Tensor) -> Tensor:
        return x if self._token_axis is None else x.index_select(self._token_axis, self._tokens.to(x.device))

    def _entry_bounds(self, x: Tensor) -> tuple[Tensor, Tensor]:
        # The rows of an attention map are entries themselves; channels have their bounds over all tokens.
        rows_are_entries = self._layout.instance_group_axis == self._token_axis
        return entry_bounds(self._thin_out(x) if rows_are_entries else x, self._layout)

    def sample(self) -> OperandSample:
        """Return what was kept of all batches; there must have been one."""
        lower, upper = self._range.bounds()
        return OperandSample(
            torch.cat(self._values) if self._keeps_values else lower.new_empty(0),
            lower,
            upper,
            _joined(self._entries),
            _joined(self._further_entries),
            {granularity: observer.bounds() for granularity, observer in self._observers.items()},
        )


def _joined(bounds: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor] | None:
    if not bounds:
        return None
    return torch.cat([low for low, _ in bounds]), torch.cat([high for _, high in bounds])


def _token_axis(operand: Operand) -> int | None:
    """Find the axis to thin out: the longest that is neither batch, channels nor heads; None if there is none."""
    layout = operand.layout
    kept = {layout.channel_axis, layout.head_axis}
    free = [axis for axis in range(-layout.ndim + 1, 0) if axis not in kept]
    return max(free, key=lambda axis: operand.shape[axis], default=None)


def _choose_tokens(operand: Operand, axis: int | None, settings: CalibrationSettings, name: str) -> Tensor:
    """Choose the tokens to keep: the first (a class token is unlike the others) and a random rest."""
    if axis is None:
        return torch.zeros(0, dtype=torch.long)
    length = operand.shape[axis]
    elements = math.prod(operand.shape)
    count = max(1, min(length, settings.sample_elements * length // (elements * settings.sample_images)))
    # Of a CPU generator's seed, only 32 bits count.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{settings.seed} {name}".encode()))
    rest = torch.randperm(length - 1, generator=generator)[: count - 1] + 1
    return torch.cat([torch.zeros(1, dtype=torch.long), rest]).sort().values
