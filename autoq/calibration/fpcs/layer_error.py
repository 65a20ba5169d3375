"""Squared output error of a layer, as a quadratic form of one operand's own quantization error.

A product's output element is the dot product of a vector of the left operand and one of the right. With vectors v of
one operand quantized to v + e, and the other operand's vectors (the columns of U) to Û = U + D, the error of all
outputs that v takes part in is::

    ‖(v + e) Û − v U‖² = ‖e Û‖² + 2 (v D) Ûᵀ eᵀ + ‖v D‖²

Û may be replaced by any factor F of the Gram matrix Û Ûᵀ = F Fᵀ; nothing is a difference of large numbers.

Where squared errors of outputs are weighted, every vector has a Gram matrix of its own, and no factor is shared. The
outputs are then computed, Σ w ∘ (e Û + v D)²: as many products as there are outputs, in place of min(I, outputs), and
memory for two numbers (weight and v D) for each output of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autoq.calibration.fpcs.search import Loss

ELEMENTS_AT_ONCE = 1 << 19
"""Quantization errors computed at a time: two megabytes stay in a cache that is not the first level, and what it takes
to start an operation is not felt (benchmarks/fpcs.py: a quarter as many took 1.1 to 1.5 times as long, four times as
many 1.1 to 1.9)."""
_LEAST_PRODUCT = 32
"""Vectors multiplied with one block's factor at a time; fewer would leave the processor waiting for the factor."""
_LEAST_SCREENED = 128
_SUBSPACE_ITERATIONS = 2
Rounder = Callable[[Tensor], Tensor]
"""Rounds values of scale one; may overwrite them."""
_Rounding = Callable[[Tensor, slice, slice, Tensor], None]
"""(values, rows, candidates, out): write quantization errors of values (R, B, 1, m, I) into ``out`` (R, B, K, m, I)."""


@dataclass(frozen=True)
class QuadraticError:
    """Error of R rows that have parameters of their own; a row has B blocks of m vectors of length I.

    ``error(e) = Σ ‖e · factor‖² + Σ diagonal · e² + Σ linear · e + constant`` over a row's vectors e, or with weights
    ``error(e) = Σ weights · (e · factor + offset)² + constant``.

    Attributes:
        values: full-precision vectors, of shape (R, B, m, I).
        factor: of shape (R or 1, B or 1, I, r); None and no diagonal: the identity.
        diagonal: of shape (R or 1, B or 1, 1, I), or None.
        linear: of the shape of ``values``, or None.
        constant: of shape (R, 1).
        mask: of the shape of ``values``, 0 where a value is padding and is not quantized; None: nowhere.
        weights: of shape (R, B, m, r), of the squares of all products with the factor; None: one.
        offset: of the same shape; None: zero.
    """

    values: Tensor
    factor: Tensor | None = None
    diagonal: Tensor | None = None
    linear: Tensor | None = None
    constant: Tensor | None = None
    mask: Tensor | None = None
    weights: Tensor | None = None
    offset: Tensor | None = None

    def screened(self, share: int, seed: int) -> QuadraticError | None:
        """Return the same with 1/``share`` of the directions, the leading ones, and the diagonal of the others' part.

        Args:
            share: see above.
            seed: of the subspace iteration's first directions.

        Returns:
            None where it would not pay, or where weights leave no directions that all vectors share.
        """
        if self.factor is None or self.weights is not None or share < 2:
            return None
        if min(self.factor.shape[-2:]) < _LEAST_SCREENED:
            return None
        count = min(self.factor.shape[-2:]) // share
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(self.factor.shape[-1], count, generator=generator).to(self.factor)
        basis = start.expand(*self.factor.shape[:2], -1, -1)
        for _ in range(_SUBSPACE_ITERATIONS):
            basis = torch.linalg.qr(self.factor.mT @ (self.factor @ basis)).Q
        leading = self.factor @ basis
        rest = self.factor.square().sum(-1) - leading.square().sum(-1)
        return replace(self, factor=leading, diagonal=rest.clamp(min=0).unsqueeze(-2))

    def shifted(self, shift: Tensor) -> QuadraticError:
        """Return the same of values to which a number is added, as logarithmic schemes do before they divide."""
        return replace(self, values=self.values + shift)

    def tied(self, rows: int) -> QuadraticError:
        """Return the same with so many rows, each of equally many of these, one after the other, as its vectors.

        Of rows with one block of one vector, and a factor that all share: the channels of a weight.
        """

        def together(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.reshape(rows, 1, -1, x.shape[-1])

        return replace(
            self,
            values=self.values.reshape(rows, 1, -1, self.values.shape[-1]),
            linear=together(self.linear),
            weights=together(self.weights),
            offset=together(self.offset),
            constant=None if self.constant is None else self.constant.reshape(rows, -1).sum(1, keepdim=True),
        )

    def evaluate(self, rounding: _Rounding, count: int) -> Tensor:
        """Compute the errors of ``count`` candidates a row, of shape (R, count), float64, in bounded memory."""
        rows, blocks, vectors, length = self.values.shape
        most = length if self.weights is None else max(length, self.weights.shape[-1])
        m = min(vectors, max(1, ELEMENTS_AT_ONCE // most))
        k = min(count, max(1, _LEAST_PRODUCT // m))
        b = min(blocks, max(1, ELEMENTS_AT_ONCE // (k * m * most)))
        k = min(count, max(k, ELEMENTS_AT_ONCE // (b * m * most)))
        r = min(rows, max(1, ELEMENTS_AT_ONCE // (b * k * m * most)))
        buffer = torch.empty(r * b * k * m * length, device=self.values.device)
        total = torch.zeros(rows, count, dtype=torch.float64, device=self.values.device)
        if self.constant is not None:
            total += self.constant
        for row in slices(rows, r):
            for block in slices(blocks, b):
                for vector in slices(vectors, m):
                    part = (row, block, vector)
                    values = self.values[part].unsqueeze(2)
                    for candidate in slices(count, k):
                        shape = (*values.shape[:2], candidate.stop - candidate.start, *values.shape[3:])
                        errors = buffer[: torch.Size(shape).numel()].view(shape)
                        rounding(values, row, candidate, errors)
                        if self.mask is not None:
                            errors.mul_(self.mask[part].unsqueeze(2))
                        total[row, candidate] += self._weigh(errors, part)
        return total

    def evaluate_scaled(self, roundings: Sequence[Rounder], steps: Tensor) -> Tensor:
        """Compute the errors of K candidates a row, of shape (R, K), float64.

        Args:
            roundings: of each candidate, at scale one.
            steps: scales, of shape (R, K).
        """

        def rounding(values: Tensor, rows: slice, candidates: slice, out: Tensor) -> None:
            block = torch.empty_like(values)
            for index in range(candidates.start, candidates.stop):
                step = steps[rows, index].view(-1, 1, 1, 1, 1)
                torch.div(values, step, out=block)
                rounded = roundings[index](block).mul_(step)
                torch.sub(rounded.squeeze(2), values.squeeze(2), out=out[:, :, index - candidates.start])

        return self.evaluate(rounding, len(roundings))

    def _weigh(self, errors: Tensor, part: tuple[slice, slice, slice]) -> Tensor:
        """Turn quantization errors (R, B, K, m, I), which are overwritten, into output errors (R, K)."""
        rows, blocks, count, vectors, length = errors.shape
        total = torch.zeros(rows, count, device=errors.device)  # (R, K)
        if self.factor is not None:
            factor = _part(self.factor, part)
            if factor.shape[:2] == (1, 1):
                outputs = errors.view(-1, length) @ factor[0, 0]
            else:
                flat = factor.expand(rows, blocks, -1, -1).flatten(0, 1)
                outputs = torch.bmm(errors.view(rows * blocks, count * vectors, length), flat)
            if self.weights is not None:
                outputs = outputs.view(rows, blocks, count, vectors, -1)
                if self.offset is not None:
                    outputs.add_(self.offset[part].unsqueeze(2))
                return outputs.square_().mul_(self.weights[part].unsqueeze(2)).sum((1, 3, 4))
            total += outputs.square_().view(rows, blocks, count, -1).sum(3).sum(1)
        slopes = self.linear[part].unsqueeze(2) if self.linear is not None else None
        if self.diagonal is not None:
            diagonal = _part(self.diagonal, part).unsqueeze(2)
            rest = errors * diagonal if slopes is None else torch.addcmul(slopes, errors, diagonal)
            total += errors.mul_(rest).sum((1, 3, 4))
        elif self.factor is None:
            total += (errors if slopes is None else errors + slopes).mul(errors).sum((1, 3, 4))
        elif slopes is not None:
            total += errors.mul_(slopes).sum((1, 3, 4))
        return total


def affine_loss(error: QuadraticError, bits: int, *, binary: bool = False) -> Loss:
    """Make the error a function of scale and zero point, each of shape (R, n).

    Args:
        error: the quadratic form.
        bits: code width.
        binary: quantize to ±scale / 2 by sign; the zero point is ½.
    """

    def loss(scale: Tensor, zero_point: Tensor) -> Tensor:
        least, greatest = -zero_point, 2**bits - 1 - zero_point

        def rounding(values: Tensor, rows: slice, candidates: slice, out: Tensor) -> None:
            step, low, high = (t[rows, candidates].view(out.shape[0], 1, -1, 1, 1) for t in (scale, least, greatest))
            torch.div(values, step, out=out)
            _ = out.floor_().add_(0.5) if binary else out.round_()
            out.clamp_min_(low).clamp_max_(high).mul_(step).sub_(values)

        return error.evaluate(rounding, scale.shape[1])

    return loss


def _part(tensor: Tensor, part: tuple[slice, slice, slice]) -> Tensor:
    """Take rows and blocks of a tensor that may have one for all."""
    row, block, _ = part
    return tensor[row if tensor.shape[0] > 1 else slice(None), block if tensor.shape[1] > 1 else slice(None)]


def slices(length: int, size: int) -> list[slice]:
    """Cut ``length`` entries into parts of ``size`` and a last one of what is left."""
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
