"""Learned rounding of weights, and quantizers that are dropped at random while they are learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autoq.quantizers import BaseQuantizer, UniformQuantizer

_ZETA, _GAMMA = 1.1, -0.1
"""Bounds of the stretched sigmoid (AdaRound, equation 23), clamped to 0..1."""
_NEAR_CODE = 0.9
"""How far from W to its code a weight with given codes starts. On an attention projection at 2 and 3 bits, 0.6 left
1.2 to 1.7 times the error of the layer's output after 400 iterations, 0 three to seven times."""


class LearnedRounding(nn.Module):
    """Stands in a weight's slot and gives the weight rounded softly (Nagel et al., "Up or Down?", ICML 2020).

    W̃ = s · clamp(⌊W / s⌋ + h(V), −z, 2^b − 1 − z) with h(V) = clamp(σ(V) (ζ − γ) + γ, 0, 1), which starts at the
    fraction of W / s, so that W̃ is W itself (equations 22 and 23). Scales stay as calibrated. A quantizer with a basis
    of its own (``to_basis``) has W and W̃ there.

    A weight that was rounded otherwise than to nearest keeps its code or moves one step towards W. It starts near the
    code: from W itself, training does not come back to codes as good as second-order ones.

    Attributes:
        direction: V, of the shape of the weight.
    """

    def __init__(self, weight: Tensor, quantizer: UniformQuantizer, codes: Tensor | None = None) -> None:
        """Start from the weight in full precision, or near given codes.

        Args:
            weight: W.
            quantizer: of the weight.
            codes: how the weight is rounded, of its shape; None: either way.
        """
        super().__init__()
        self.config = quantizer.config
        scale, zero_point = quantizer.spread(weight)  # each broadcasts to the shape of the weight
        steps = quantizer.to_basis(weight.detach().float()) / scale  # as all that follow, of the shape of the weight
        self._from_basis = quantizer.from_basis
        self._scale, self._zero_point = scale, zero_point
        self._below = steps.floor()
        given = steps if codes is None else codes - zero_point
        if codes is not None:
            self._below = torch.where(steps < given, given - 1, given)
        self._low, self._high = -zero_point, 2**quantizer.config.bits - 1 - zero_point
        fraction = (steps - self._below).clamp(0, 1).lerp(given - self._below, _NEAR_CODE)
        self.direction = nn.Parameter(torch.logit((fraction - _GAMMA) / (_ZETA - _GAMMA)))

    def up(self) -> Tensor:
        """Return h(V), how far each weight is rounded up, from 0 to 1; of the shape of the weight."""
        return (torch.sigmoid(self.direction) * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the softly rounded weight, in the shape and type of ``x``, the weight it replaces."""
        steps = torch.minimum(torch.maximum(self._below + self.up(), self._low), self._high)
        return self._from_basis(steps * self._scale).to(x.dtype)

    def undecided(self, exponent: float) -> Tensor:
        """Return the mean of 1 − |2 h(V) − 1|^β (equation 24): 1 where h is a half, 0 where h is 0 or 1."""
        return 1 - (2 * self.up() - 1).abs().pow(exponent).mean()

    @torch.no_grad()
    def codes(self) -> Tensor:
        """Return the codes (int32, from 0) of the weight, rounded up where h(V) is a half or more; of its shape."""
        steps = torch.minimum(torch.maximum(self._below + (self.up() >= 0.5), self._low), self._high)
        return (steps + self._zero_point).to(torch.int32)


class DroppedQuantizer(nn.Module):
    """Leaves each element as it is with some probability (QDrop; Wei et al., ICLR 2022, equation 9)."""

    def __init__(self, quantizer: BaseQuantizer, probability: float, generator: torch.Generator) -> None:
        """Wrap a quantizer; ``generator`` is on the device of its inputs."""
        super().__init__()
        self.config = quantizer.config
        self.quantizer = quantizer
        self._probability, self._generator = probability, generator

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` in some elements and quantized ``x`` in the others."""
        return drop(self.quantizer(x), x, self._probability, self._generator)


def drop(quantized: Tensor, x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Take elements of ``x`` with some probability (a multiple of 1/256), else of ``quantized``, of one shape."""
    if probability == 0:
        return quantized
    # Bytes of random words: a tenth of the time that bernoulli_ takes.
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device)  # (⌈elements / 8⌉,)
    words.random_(torch.iinfo(torch.int64).min, None, generator=generator)
    kept = words.view(torch.uint8)[: x.numel()].reshape(x.shape) >= round(256 * probability)
    mixed: Tensor = _Mix.apply(quantized, x, kept.to(x.dtype))
    return mixed


class _Mix(torch.autograd.Function):
    """``kept`` of one tensor, the rest of the other; faster than ``where``, and exact as weights are 0 and 1."""

    @staticmethod
    def forward(context: Any, quantized: Tensor, x: Tensor, kept: Tensor) -> Tensor:
        context.save_for_backward(kept)
        return torch.lerp(x, quantized, kept)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        (kept,) = context.saved_tensors
        of_quantized = gradient * kept
        return of_quantized, gradient - of_quantized, None
