"""The base class of observers: bounds of a tensor that is seen batch by batch, and what follows from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from autoq.errors import CalibrationError

if TYPE_CHECKING:
    from autoq.calibration.settings import CalibrationSettings

Bounds = tuple[Tensor, Tensor]
"""Lower and upper bounds of the same shape."""


class BaseObserver(ABC):
    """Watches a tensor batch by batch; keeps one pair of bounds for each entry along ``kept_axes`` and nothing else.

    The bounds are a quantizer's range, or where the choice of one begins: an observer may offer several ranges, of
    which the one of least squared error is taken for each scheme and width, or ask for a search.

    Attributes:
        name: the name that settings use.
        needs_each_granularity: whether bounds of whole tensors do not follow from those of their channels (a maximum of
            averages is not the average maximum), so that every granularity is observed by itself.
        shrinks: factors of the observed range that are tried for least squared error; empty: none are.
        chooses_by_error: whether the range is chosen by squared error at all, and not as it was observed.
        searches: whether parameters of least squared error are searched for beyond ``shrinks``.
        by_layer_output: whether the search is for the error of the layer's output where that can be computed.
        kept_axes: axes along which bounds vary; along all others they are shared.
    """

    name: ClassVar[str]
    needs_each_granularity: ClassVar[bool] = False
    shrinks: ClassVar[tuple[float, ...]] = ()
    chooses_by_error: ClassVar[bool] = False
    searches: ClassVar[bool] = False
    by_layer_output: ClassVar[bool] = False

    def __init__(self, kept_axes: Sequence[int]) -> None:
        """Start with nothing observed."""
        self.kept_axes = tuple(kept_axes)
        self._bounds: Bounds | None = None

    @classmethod
    def from_settings(cls, kept_axes: Sequence[int], settings: CalibrationSettings) -> Self:  # noqa: ARG003
        """Make an observer that has what it needs from the settings."""
        return cls(kept_axes)

    @classmethod
    def candidates(cls, rows: Tensor, lower: Tensor, upper: Tensor) -> Bounds | None:  # noqa: ARG003
        """Return the ranges to choose from by squared error; None: the observed one is taken as it is.

        Args:
            rows: sampled values that share parameters, of shape (rows, n).
            lower: observed bounds, of shape (rows,).
            upper: likewise.

        Returns:
            Lower and upper bounds of K candidates, each of shape (K, rows).
        """
        return shrunk_ranges(lower, upper, cls.shrinks) if cls.shrinks else None

    @classmethod
    def kept_percent(cls, settings: CalibrationSettings) -> float:  # noqa: ARG003
        """Return the percent of values below the upper bound, and above the lower one."""
        return 100.0

    def update(self, x: Tensor) -> None:
        """Take a batch, of the same shape as all others but for its leading axis, into account."""
        batch = self._bounds_of_batch(x)
        self._bounds = batch if self._bounds is None else self._merged(self._bounds, batch)

    def bounds(self) -> Bounds:
        """Return lower and upper bounds: float32, of the batches' ndim, axes that are not kept of size one.

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
        """Bring the bounds so far up to date with those of the next batch."""


def shrunk_ranges(lower: Tensor, upper: Tensor, shrinks: Sequence[float]) -> Bounds:
    """Scale both bounds together by each factor.

    Args:
        lower: lower bounds, of any shape.
        upper: upper bounds, of the same shape.
        shrinks: K factors.

    Returns:
        Lower and upper bounds, each of shape (K, *lower.shape).
    """
    factors = torch.tensor(shrinks, device=lower.device).view(-1, *(1,) * lower.ndim)
    return factors * lower, factors * upper
