"""Observers: from batches of an operand to its bounds, in memory that does not grow with the batches.

Those that stream are FQ-ViT's (Lin et al., "FQ-ViT: Post-Training Quantization for Fully Quantized Vision Transformer",
IJCAI 2022). An observer has one resolution, the axes along which its bounds vary: a maximum over channels of averaged
maxima is not the averaged maximum, so that every resolution is observed by itself. Bounds that depend on scheme and
bits (OMSE, RepQ-ViT's best percentile) are chosen afterwards, among candidates, on sampled values.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoq.calibration.settings import CalibrationSettings
from autoq.errors import CalibrationError
from autoq.quantizers import OperandLayout, quantizer_class
from autoq.recipe import OperandConfig

Bounds = tuple[Tensor, Tensor]
"""Lower and upper bounds of the same shape."""

SHRINKS = tuple(1 - step / 100 for step in range(90))
"""OMSE's candidates relative to the observed range, as in FQ-ViT."""
BEST_OF_PERCENTILES = (99.9, 99.99, 99.999)
"""RepQ-ViT's candidates (Li et al., "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision
Transformers", ICCV 2023)."""
_PIECE = 1 << 16
"""Values of a row searched for its extremes at a time, while they are in a cache."""
_LOOK_UPS_PAY = 32
"""From so many values a code on, looking thresholds up among sorted values is faster than quantizing the values."""
_ELEMENTS_AT_ONCE = 1 << 17


class BaseObserver(ABC):
    """Watches a tensor batch by batch; keeps one pair of bounds for each entry along ``kept_axes`` and nothing else.

    Attributes:
        kept_axes: axes along which bounds vary; along all others they are shared.
    """

    def __init__(self, kept_axes: Sequence[int]) -> None:
        """Nothing is observed yet."""
        self.kept_axes = tuple(kept_axes)
        self._bounds: Bounds | None = None

    def update(self, x: Tensor) -> None:
        """Take a batch, of the same shape as all others but for its leading axis, into account."""
        batch = self._bounds_of_batch(x)
        self._bounds = batch if self._bounds is None else self._merged(self._bounds, batch)

    def bounds(self) -> Bounds:
        """Lower and upper bounds: float32, of the batches' ndim, axes that are not kept of size one.

        Raises:
            CalibrationError: there was no batch.
        """
        if self._bounds is None:
            raise CalibrationError("there are no calibration images")
        return self._bounds

    def _bounds_of_batch(self, x: Tensor) -> Bounds:
        kept = {axis % x.ndim for axis in self.kept_axes}
        reduced = [axis for axis in range(x.ndim) if axis not in kept]
        return x.amin(reduced, keepdim=True).float(), x.amax(reduced, keepdim=True).float()

    @abstractmethod
    def _merged(self, old: Bounds, batch: Bounds) -> Bounds:
        """What becomes of the bounds so far when a batch with these bounds follows."""


class MinMaxObserver(BaseObserver):
    """Least and greatest value of all batches, whatever their order."""

    def _merged(self, old: Bounds, batch: Bounds) -> Bounds:
        return torch.minimum(old[0], batch[0]), torch.maximum(old[1], batch[1])


class EmaObserver(BaseObserver):
    """Exponential moving average of the batches' least and greatest values; the first batch is the start.

    bound ← bound + c · (bound of the batch − bound)

    Attributes:
        averaging_constant: c.
    """

    def __init__(self, kept_axes: Sequence[int], averaging_constant: float = 0.01) -> None:
        """Nothing is observed yet."""
        super().__init__(kept_axes)
        self.averaging_constant = averaging_constant

    def _merged(self, old: Bounds, batch: Bounds) -> Bounds:
        c = self.averaging_constant
        return torch.lerp(old[0], batch[0], c), torch.lerp(old[1], batch[1], c)


class PercentileObserver(EmaObserver):
    """Exponential moving average of the batches' quantiles, which are exact however large a batch is.

    Attributes:
        percentile: percent of a batch's values below the upper bound, and above the lower one.
    """

    def __init__(self, kept_axes: Sequence[int], percentile: float = 99.99, averaging_constant: float = 0.01) -> None:
        """Nothing is observed yet."""
        super().__init__(kept_axes, averaging_constant)
        self.percentile = percentile

    def _bounds_of_batch(self, x: Tensor) -> Bounds:
        kept = sorted(axis % x.ndim for axis in self.kept_axes)
        others = [axis for axis in range(x.ndim) if axis not in kept]
        rows = x.permute(*kept, *others).reshape(math.prod(x.shape[axis] for axis in kept), -1)
        shape = [size if axis in kept else 1 for axis, size in enumerate(x.shape)]
        lower, upper = quantile_bounds(rows, (self.percentile,))
        return lower.view(shape), upper.view(shape)


def create_observers(layout: OperandLayout, settings: CalibrationSettings) -> dict[str, BaseObserver]:
    """By granularity, the observers that the settings need beside the range over all images; most need none."""

    def make(*kept_axes: int) -> BaseObserver:
        if settings.observer == "percentile":
            return PercentileObserver(kept_axes, settings.percentile, settings.averaging_constant)
        return EmaObserver(kept_axes, settings.averaging_constant)

    if settings.observer not in ("ema", "percentile"):
        return {}
    observers = {"tensor": make(), "channel": make(layout.channel_axis)}
    if layout.head_axis is not None:
        observers["head"] = make(layout.head_axis)
    return observers


def quantile_bounds(rows: Tensor, percentiles: Sequence[float]) -> Bounds:
    """Quantiles of each row at K percentiles, and at 100 less these, as ``torch.quantile`` defines them.

    Args:
        rows: of shape (rows, n); n may be greater than ``torch.quantile`` allows.
        percentiles: from 50 to 100.

    Returns:
        Lower and upper bounds of shape (K, rows), float32, interpolated between neighbouring values.
    """
    last = rows.shape[1] - 1
    positions = [last * (1 - percentile / 100) for percentile in percentiles]
    count = min(math.floor(max(positions)) + 2, rows.shape[1])
    below, above = (_extremes(rows, count, largest=largest).float() for largest in (False, True))

    def at(extremes: Tensor, position: float) -> Tensor:
        outer = math.floor(position)
        return torch.lerp(extremes[:, outer], extremes[:, min(outer + 1, last)], position - outer)

    lower, upper = (torch.stack([at(extremes, position) for position in positions]) for extremes in (below, above))
    return lower, upper


def _extremes(rows: Tensor, count: int, *, largest: bool) -> Tensor:
    """The ``count`` outermost values of each row, from the outermost inwards."""
    pieces = torch.split(rows, max(_PIECE, 64 * count), dim=1)
    if len(pieces) > 1:
        of_pieces = [piece.topk(min(count, piece.shape[1]), dim=1, largest=largest).values for piece in pieces]
        rows = torch.cat(of_pieces, 1)
    return rows.topk(count, dim=1, largest=largest).values


def shrunk_ranges(lower: Tensor, upper: Tensor) -> Bounds:
    """OMSE's candidates: both bounds scaled together, of shape (90, *lower.shape)."""
    factors = torch.tensor(SHRINKS, device=lower.device).view(-1, *(1,) * lower.ndim)
    return factors * lower, factors * upper


def least_error_range(
    values: Tensor, config: OperandConfig, candidates: Bounds, sorted_rows: Callable[[], SortedRows]
) -> Bounds:
    """For each row the candidate whose quantizer has the least squared error, which is computed exactly.

    Args:
        values: of shape (rows, n).
        config: scheme and bits; its granularity is ignored, each row has parameters of its own.
        candidates: lower and upper bounds of K candidates, of shape (K, rows); of equally good ones the first is taken.
        sorted_rows: gives ``values`` sorted; called where errors are computed faster so.

    Returns:
        Lower and upper bounds of shape (rows,).
    """
    lower, upper = candidates
    layout = OperandLayout(ndim=2, channel_axis=-2)
    by_row = config.model_copy(update={"granularity": "channel", "groups": 1})
    is_looked_up = config.scheme == "uniform" and values.shape[1] > _LOOK_UPS_PAY * 2**config.bits
    elements = len(values) * 2**config.bits if is_looked_up else values.numel()
    at_once = max(1, _ELEMENTS_AT_ONCE // elements)
    errors = []
    for low, high in zip(torch.split(lower, at_once), torch.split(upper, at_once), strict=True):
        bounds = (bound.reshape(-1, 1) for bound in (low, high))
        quantizer = quantizer_class(config.scheme).from_range(by_row, layout, *bounds)
        if is_looked_up:
            scale, zero_point = (quantizer.qparams()[name].view(low.shape).t() for name in ("scale", "zero_point"))
            errors.append(sorted_rows().uniform_errors(scale, zero_point, config.bits).t())
        else:
            tiled = values.repeat(len(low), 1)
            difference = quantizer.fake_quantize(tiled).sub_(tiled).square_()
            errors.append(difference.sum(1, dtype=torch.float64).view(low.shape))
    best = torch.cat(errors).argmin(0, keepdim=True)
    return lower.gather(0, best)[0], upper.gather(0, best)[0]


@dataclass(frozen=True)
class SortedRows:
    """Rows of numbers in ascending order, from which the squared error of a uniform quantizer follows exactly.

    The sum is that of ``calibration.tables``, with F known everywhere: few candidates pay neither for a histogram fine
    enough for the narrowest of them nor for its memory.

    Attributes:
        values: of shape (rows, n).
        sums: of the values before each place, of shape (rows, n + 1), float64.
        squares: sum of all squares, of shape (rows, 1), float64.
    """

    values: Tensor
    sums: Tensor
    squares: Tensor

    @classmethod
    def of_rows(cls, rows: Tensor) -> SortedRows:
        """From numbers of shape (rows, n)."""
        values = rows.sort(1).values
        exact = values.double()
        sums = torch.nn.functional.pad(exact.cumsum(1), (1, 0))
        return cls(values, sums, exact.square().sum(1, keepdim=True))

    def uniform_errors(self, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
        """Squared errors of K uniform quantizers a row; both parameters and the result are of shape (rows, K)."""
        step, zero_point = scale.double(), zero_point.double()
        codes = torch.arange(2**bits - 1, dtype=torch.float64, device=step.device) + 0.5
        thresholds = ((codes - zero_point.unsqueeze(2)) * step.unsqueeze(2)).flatten(1)
        place = torch.searchsorted(self.values, thresholds.float())
        below = (thresholds * place - self.sums.gather(1, place)).view(*step.shape, -1).sum(2)
        last = (2**bits - 1 - zero_point) * step
        whole = self.squares - 2 * last * self.sums[:, -1:] + last.square() * self.values.shape[1]
        errors: Tensor = whole - 2 * step * below
        return errors.clamp_(min=0)
