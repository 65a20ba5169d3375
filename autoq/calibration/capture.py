"""One full-precision pass that keeps a bounded sample of every activation operand."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from autoq.calibration.observers import Bounds, MinMaxObserver, create_observers
from autoq.calibration.settings import CalibrationSettings
from autoq.errors import CalibrationError
from autoq.graph.insert import OperandKey, QuantizedModel
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


def capture(
    model: QuantizedModel,
    batches: Iterable[Tensor],
    settings: CalibrationSettings,
    progress: Callable[[int], None] | None = None,
    operands: Collection[OperandKey] | None = None,
) -> dict[OperandKey, OperandSample]:
    """Run full precision over the calibration images and keep a sample of activation operands.

    What is kept does not grow with the images. The averages of some observers depend on how images are batched.

    Args:
        model: its slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device.
        settings: how much is kept, and by which observer.
        progress: called with the number of images of each finished batch.
        operands: activations to record, those of LayerNorm and softmax sites among them if named; None: all operands
            of sites that have MACs.

    Raises:
        RecipeError: the model has no such operand.
        CalibrationError: there is no image, an operand is a weight, or has NaN or infinite values in full precision.
    """
    recorders = {
        (site, operand.name): OperandRecorder(operand, settings, f"{site}:{operand.name}")
        for site, operand in _chosen(model, operands)
    }
    run_observed(model, recorders, batches, progress)
    samples = {}
    for key, recorder in recorders.items():
        samples[key] = finite_sample(recorder, key, "in full precision: check the weights")
    return samples


def finite_sample(recorder: OperandRecorder, key: OperandKey, hint: str) -> OperandSample:
    """Return what a recorder has kept.

    Raises:
        CalibrationError: there are NaN or infinite values; the message ends with ``hint``.
    """
    sample = recorder.sample()
    if not (torch.isfinite(sample.lower).all() and torch.isfinite(sample.upper).all()):
        raise CalibrationError(f"{key[0]}:{key[1]} has NaN or infinite values {hint}")
    return sample


def run_observed(
    model: QuantizedModel,
    observers: Mapping[OperandKey, nn.Module],
    batches: Iterable[Tensor],
    progress: Callable[[int], None] | None = None,
) -> None:
    """Run one full-precision pass with modules in some slots that pass their input on.

    Args:
        model: its slots are emptied before and after.
        observers: by site and operand.
        batches: images of shape (N, C, H, W) on the model's device.
        progress: called with the number of images of each finished batch.
    """
    model.remove_()
    model.insert_(observers)
    try:
        with torch.no_grad():
            for batch in batches:
                model.run(batch)
                if progress is not None:
                    progress(batch.shape[0])
    finally:
        model.remove_()


def _chosen(model: QuantizedModel, operands: Collection[OperandKey] | None) -> list[tuple[str, Operand]]:
    """Return names of sites and the operands to record there."""
    if operands is None:
        return [(site.name, each) for site, each in model.traced.operands() if site.macs and not each.is_weight]
    model.check_keys(operands)
    chosen = [(site, model.traced.sites_by_name[site].operand(name)) for site, name in operands]
    for site, operand in chosen:
        if operand.is_weight:
            raise CalibrationError(f"{site}:{operand.name} is a weight: it is calibrated on itself, not on images")
    return chosen


class OperandRecorder(nn.Module):
    """Sits in a slot, passes its input on and remembers some of it."""

    def __init__(self, operand: Operand, settings: CalibrationSettings, name: str) -> None:
        """Start with nothing seen; ``name`` and ``settings.seed`` choose the tokens that are kept."""
        super().__init__()
        self._layout = operand.layout
        self._instances = max(operand.layout.instances_per_image, 1)
        self._images_left = settings.sample_images
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
            torch.cat(self._values),
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
