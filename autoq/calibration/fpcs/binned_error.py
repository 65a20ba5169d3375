"""Squared output errors of a quantizer that all values share, from bins of nearly equal values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autoq.calibration.fpcs.layer_error import ELEMENTS_AT_ONCE, QuadraticError, Rounder, slices

_DROPPED_BITS = 15
"""Of a float32: sign, exponent and eight bits of the significand are left, 256 bins to an octave."""
_ROUNDED_AT_ONCE = 1 << 21
"""Rounded bins that are held at a time, over all candidates: eight megabytes."""


@dataclass(frozen=True)
class BinnedError:
    """A quadratic form of one row whose values are rounded once for each bin, and not one by one.

    With q the rounded centre of a value's bin, the error ``Σ ‖(q − v) · factor‖² + Σ diagonal · (q − v)² + Σ linear ·
    (q − v)`` takes one look-up and one product for each value and candidate; the latter sums need only the bins. It
    ranks candidates: where a threshold divides a bin, values on one side of it are rounded to the other's level.

    Attributes:
        centres: mean value of each bin, of shape (bins,).
        places: the bin of each value, int32, of shape (vectors, I).
        coefficients: of q², q and 1 in the sums of each bin, of shape (3, bins), float64.
        factor: leading directions, of shape (I, r); None: the sums are all there is.
        products: of the values with ``factor``, of shape (vectors, r).
    """

    centres: Tensor
    places: Tensor
    coefficients: Tensor
    factor: Tensor | None
    products: Tensor | None

    @classmethod
    def of(cls, screened: QuadraticError) -> BinnedError | None:
        """Bin the values of a screened form (:meth:`QuadraticError.screened`).

        Returns:
            None where rows or blocks have factors of their own, or some values are not quantized.
        """
        values, factor, linear = screened.values, screened.factor, screened.linear
        if factor is None or factor.shape[:2] != (1, 1) or len(values) > 1 or screened.mask is not None:
            return None
        vectors = values.reshape(-1, values.shape[-1]).contiguous()
        found, places = (vectors.view(torch.int32) >> _DROPPED_BITS).unique(return_inverse=True)  # type: ignore[no-untyped-call]
        weights = torch.zeros_like(factor[0, 0, :, 0]) if screened.diagonal is None else screened.diagonal.flatten()
        slopes = None if linear is None else linear.reshape(vectors.shape)
        return cls(
            centres=_sums(vectors, places, len(found)).div(_sums(torch.ones_like(vectors), places, len(found))).float(),
            places=places.int(),
            coefficients=_coefficients(vectors, weights, slopes, places, len(found)),
            factor=factor[0, 0],
            products=vectors @ factor[0, 0],
        )

    def of_diagonal(self) -> BinnedError:
        """Return the same without what a value's error costs together with another's: sums over bins alone.

        Its ranking is coarse, and costs less than a hundredth.
        """
        if self.factor is None:
            return self
        weights = self.factor.square().sum(1).expand(self.places.shape)
        centres, square = self.centres.double(), _sums(weights, self.places.long(), len(self.centres))
        more = square * torch.stack([torch.ones_like(centres), -2 * centres, centres.square()])
        return replace(self, coefficients=self.coefficients + more, factor=None, products=None)

    def evaluate_scaled(self, roundings: Sequence[Rounder], steps: Tensor) -> Tensor:
        """Compute the errors of K candidates; see :meth:`QuadraticError.evaluate_scaled`."""
        total = torch.empty(1, len(roundings), dtype=torch.float64, device=steps.device)
        for some in slices(len(roundings), max(1, _ROUNDED_AT_ONCE // len(self.centres))):
            rounded = torch.stack(
                [
                    rounding(self.centres / step).mul_(step)
                    for rounding, step in zip(roundings[some], steps[0, some], strict=True)
                ]
            )
            q = rounded.double()
            square, slope, constant = self.coefficients
            total[0, some] = (square * q).add_(slope).mul_(q).add_(constant).sum(1)
            if self.factor is not None and self.products is not None:
                self._add_directions(rounded, self.factor, self.products, total[0, some])
        return total

    def _add_directions(self, rounded: Tensor, factor: Tensor, products: Tensor, total: Tensor) -> None:
        """Add ``Σ ‖q · factor − products‖²`` of each candidate to ``total`` (K,)."""
        at_once = max(1, ELEMENTS_AT_ONCE // self.places.shape[1])
        for places, exact in zip(torch.split(self.places, at_once), torch.split(products, at_once), strict=True):
            q, outputs = torch.empty(places.shape, device=places.device), torch.empty_like(exact)
            flat = places.flatten()
            for index, levels in enumerate(rounded):
                torch.index_select(levels, 0, flat, out=q.view(-1))
                torch.mm(q, factor, out=outputs)
                total[index] += outputs.sub_(exact).square_().sum()


def _coefficients(vectors: Tensor, weights: Tensor, slopes: Tensor | None, places: Tensor, bins: int) -> Tensor:
    """Sum ``weights · (q − v)² + slopes · (q − v)`` over each bin, as a polynomial of q."""
    exact = vectors.double()
    weighted = exact * weights
    square = _sums(weights.expand_as(vectors), places, bins)
    slope, constant = -2 * _sums(weighted, places, bins), _sums(weighted * exact, places, bins)
    if slopes is not None:
        slope = slope + _sums(slopes, places, bins)
        constant = constant - _sums(exact * slopes, places, bins)
    return torch.stack([square, slope, constant])


def _sums(x: Tensor, places: Tensor, bins: int) -> Tensor:
    """Sum what lies in each bin, of shape (bins,), float64."""
    total = torch.zeros(bins, dtype=torch.float64, device=x.device)
    return total.scatter_add_(0, places.flatten(), x.flatten().double())
