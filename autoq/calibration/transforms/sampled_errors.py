"""What few bits do to a sample of an operand: enough to tell which of several equal models is easier to quantize."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autoq.errors import CalibrationError
from autoq.graph.insert import OperandKey
from autoq.quantizers._affine import affine_fake_quantize, choose_affine_qparams

_BITS = 4
_SHRINKS = (1.0, 0.8, 0.6, 0.4, 0.25)
"""Parts of the observed range that are tried for least squared error."""
_TOKENS = 128
_ELEMENTS = 1 << 16
"""Most elements of an operand of a product that are looked at."""


class TokenSample(nn.Module):
    """Sits in the slot of a layer's input and keeps some tokens of each batch."""

    def __init__(self, weight_ndim: int) -> None:
        """Keep none yet; ``weight_ndim`` is that of the layer's weight, which tells where channels are."""
        super().__init__()
        self._axis = 1 - weight_ndim
        self._seen: list[Tensor] = []
        self._generator = torch.Generator().manual_seed(0)

    def forward(self, x: Tensor) -> Tensor:
        """Pass ``x`` on."""
        tokens = x.movedim(self._axis, -1).flatten(0, -2)
        chosen = torch.randperm(len(tokens), generator=self._generator)[:_TOKENS]
        self._seen.append(tokens[chosen.to(x.device)].float())
        return x

    def values(self, key: OperandKey) -> Tensor:
        """Return tokens, of shape (tokens, channels).

        Raises:
            CalibrationError: there are none, or they have NaN or infinite values.
        """
        return _finite(self._seen, key)[:_TOKENS]


class WindowSample(nn.Module):
    """Sits in the slot of a product's operand and keeps the first entries of its leading axis."""

    def __init__(self) -> None:
        """Keep none yet."""
        super().__init__()
        self._seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """Pass ``x`` on."""
        if not self._seen:
            self._seen.append(x[: max(1, _ELEMENTS * len(x) // x.numel())].float().clone())
        return x

    def values(self, key: OperandKey) -> Tensor:
        """Return the operand of some windows.

        Raises:
            CalibrationError: there are none, or they have NaN or infinite values.
        """
        return _finite(self._seen, key)


def _finite(seen: Sequence[Tensor], key: OperandKey) -> Tensor:
    if not seen:
        raise CalibrationError("there are no calibration images")
    values = torch.cat(list(seen))
    if not torch.isfinite(values).all():
        raise CalibrationError(f"{key[0]}:{key[1]} has NaN or infinite values in full precision: check the weights")
    return values


def output_gram(weight: Tensor) -> Tensor:
    """Compute WᵀW over the outputs, and places of a kernel, of shape (inputs, inputs)."""
    columns = weight.float().movedim(1, -1).flatten(0, -2)
    return columns.T @ columns


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Compute the squared error in parts of the expected squares; 0 if those are zero."""
    power = float(expected.square().sum())
    return float((actual - expected).square().sum()) / power if power else 0.0


def relative_score_error(actual: Tensor, expected: Tensor) -> float:
    """Compute the error of scores (..., queries, keys), but for what is the same along a row: no softmax sees that."""
    return relative_error(*(scores - scores.mean(-1, keepdim=True) for scores in (actual, expected)))


def quantized_to_4_bits(x: Tensor, kept: tuple[int, ...]) -> Tensor:
    """Round to 4 bits, uniformly, in the range of least squared error for each entry of the kept axes."""
    others = [axis for axis in range(-x.ndim, 0) if axis not in kept]
    lower, upper = x.amin(others, keepdim=True), x.amax(others, keepdim=True)
    best, least = x, torch.full_like(lower, torch.inf)
    for shrink in _SHRINKS:
        scale, zero_point = choose_affine_qparams(shrink * lower, shrink * upper, _BITS, include_zero=True)
        rounded = affine_fake_quantize(x, scale, zero_point, _BITS)
        error = (rounded - x).square().sum(others, keepdim=True)
        best = torch.where(error < least, rounded, best)
        least = torch.minimum(error, least)
    return best
