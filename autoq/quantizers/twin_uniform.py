"""Twin uniform quantization: a fine and a coarse uniform range, a power of two apart as a rule."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from torch import Tensor

from autoq.quantizers._base import BaseQuantizer, OutputSearch, usable_out, working_dtype
from autoq.quantizers.granularity import OperandLayout
from autoq.recipe import OperandConfig

MAX_SHIFT_BITS = 31
"""The ranges are at most this many binary places apart."""


class TwinUniformQuantizer(BaseQuantizer):
    """PTQ4ViT's quantizer (Yuan et al., "PTQ4ViT", ECCV 2022, §3.1).

    A code is one flag bit, which chooses the range, and bits − 1 bits of magnitude. With K = 2^(bits − 1), the coarse
    step Δ and the fine step δ = Δ / 2^m::

        softmax outputs: value = δ · clamp(round(x / δ), 0, K − 1)    where x < K · δ
        GELU outputs:    value = −δ · clamp(round(−x / δ), 0, K − 1)  where x < 0
        both, elsewhere: value = Δ · clamp(round(x / Δ), 0, K − 1)

    Codes 0..K − 1 are the fine range's, K..2^bits − 1 the coarse one's. Zero has one code of each; :meth:`quantize`
    gives it code 0. One bit leaves none for a magnitude: the flag then tells 0 from Δ, and there is no fine range.

    Attributes:
        scale: Δ, of shape ``layout.parameter_shape(...)``.
        shift_bits: m, one number in 0..``MAX_SHIFT_BITS``, and a whole one if products are to need no more than a
            shift; the authors' code takes any after GELU.
        fine_sign: sign of the values in the fine range, one number: 1 (softmax outputs) or −1 (GELU outputs).
    """

    scheme: ClassVar[str] = "twin_uniform"
    qparam_names: ClassVar[tuple[str, ...]] = ("scale", "shift_bits", "fine_sign")
    config_fields: ClassVar[tuple[str, ...]] = ("granularity",)
    output_search: ClassVar[OutputSearch | None] = "scale_and_shift_bits"
    ranges_add: ClassVar[bool] = False
    """Whether a value is the sum of what both ranges make of it, rather than what one does."""
    scale: Tensor
    shift_bits: Tensor
    fine_sign: Tensor

    @classmethod
    def from_range(cls, config: OperandConfig, layout: OperandLayout, lower: Tensor, upper: Tensor) -> Self:
        """Cover the range: what is negative by the fine range, else all by the coarse one with the least useful m.

        With negative values δ = −lower / (K − 1), and m is the least that covers the upper bound (of every unit); where
        even ``MAX_SHIFT_BITS`` does not, δ is larger. At one bit Δ is the upper bound.
        """
        lower, upper = lower.detach().float().clamp(max=0.0), upper.detach().float().clamp(min=0.0)
        finfo = torch.finfo(torch.float32)
        magnitudes = max(2 ** (config.bits - 1) - 1, 1)
        scale = upper / magnitudes
        is_negative = bool((lower < 0).any())
        if config.bits == 1:
            shift_bits = 0
        elif is_negative:
            fine = (-lower / magnitudes).clamp(min=finfo.tiny)
            ratio = float((scale.double() / fine).max())
            shift_bits = min(math.ceil(math.log2(ratio)), MAX_SHIFT_BITS) if ratio > 1 else 0
            scale = torch.maximum(scale, fine * 2.0**shift_bits)
        else:
            shift_bits = cls._least_shift_bits(config.bits)
        return cls.with_scale(config, layout, scale, shift_bits, -1 if is_negative else 1)

    @classmethod
    def with_scale(
        cls, config: OperandConfig, layout: OperandLayout, scale: Tensor, shift_bits: float, fine_sign: int
    ) -> Self:
        """Make a quantizer; move scales at which steps would be zero or values infinite to the nearest good one."""
        finfo = torch.finfo(torch.float32)
        qparams = {
            "scale": scale.clamp(finfo.tiny * 2.0**shift_bits, finfo.max / 2**config.bits),
            "shift_bits": torch.tensor(float(shift_bits), device=scale.device),
            "fine_sign": torch.tensor(float(fine_sign), device=scale.device),
        }
        return cls(config, layout, qparams)

    @classmethod
    def _least_shift_bits(cls, bits: int) -> int:
        """Return the m with which the fine range of softmax outputs ends where the first coarse step does."""
        return bits - 1

    @property
    def learnable(self) -> tuple[str, ...]:
        """The coarse step, and with it the fine one."""
        return ("scale",)

    def quantize(self, x: Tensor, groups: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Quantize to integer codes 0..2^bits − 1: the fine range's, then the coarse one's; zero and NaN are 0."""
        y = torch.nan_to_num(self._divide(x), nan=0.0, posinf=torch.inf, neginf=-torch.inf)
        is_coarse = y >= self._split
        magnitude = self._round_(y.mul_(self._steps(y))).abs_()
        if self._shares_zero:
            is_coarse &= magnitude > 0
        return magnitude.add_(is_coarse, alpha=self._first_coarse_code).to(torch.int32)

    def dequantize(self, codes: Tensor, groups: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return magnitude times the step of the code's range."""
        is_coarse = codes >= self._coarse_from
        fine = codes.float() * self._sign / self._ratio
        levels = torch.where(is_coarse, codes.float() - self._first_coarse_code, fine)
        return self._raise_(levels, is_coarse) * self._broadcast(self.scale, codes)

    def fake_quantize(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Multiply what is in the fine range by 2^m, round, and divide it again; powers of two leave no trace."""
        y = self._divide(x, usable_out(x, out))
        return self._levels_(y).mul_(self._broadcast(self.scale, x)).to(x.dtype)

    def _fake_quantize_with_gradient(self, x: Tensor) -> Tensor:
        y = self._divide(x)
        # Clamped, so that infinities are bounds; adds an exact zero that carries LSQ's gradient.
        inside = y.clamp(self._least / self._ratio, self._greatest)
        rounded = self._levels_(y.detach().clone()) + (inside - inside.detach())
        return (rounded * self._broadcast(self.scale, x)).to(x.dtype)

    def _divide(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.div(x.to(working_dtype(x.dtype)), self._broadcast(self.scale, x), out=out)

    def _steps(self, y: Tensor) -> Tensor:
        """Return the number of steps that one coarse step is divided into, where each element lies."""
        return torch.where(y < self._split, self._ratio, 1.0)

    def _levels_(self, y: Tensor) -> Tensor:
        """Round multiples of the coarse step to the levels of the range that they lie in."""
        steps = self._steps(y)
        return self._round_(y.mul_(steps)).div_(steps)

    def _raise_(self, levels: Tensor, is_coarse: Tensor) -> Tensor:  # noqa: ARG002
        """Add what the other range has to a value; nothing, as each value has one range."""
        return levels

    def _round_(self, steps: Tensor) -> Tensor:
        return steps.round_().clamp_(self._least, self._greatest)

    def _prepare(self) -> None:
        self._require_static_shape("scale")
        self._require(bool((self.scale > 0).all()), f"scale must be positive, the least is {self.scale.min():g}")
        for name in ("shift_bits", "fine_sign"):
            shape = tuple(getattr(self, name).shape)
            self._require(math.prod(shape) == 1, f"{name} must be one number, got shape {shape}")
        shift_bits, self._sign = float(self.shift_bits), float(self.fine_sign)
        self._require(
            0 <= shift_bits <= MAX_SHIFT_BITS, f"shift_bits must be in 0..{MAX_SHIFT_BITS}, got {shift_bits:g}"
        )
        self._require(self._sign in (-1.0, 1.0), f"fine_sign must be 1 or -1, got {self._sign:g}")
        magnitudes = 2 ** (self.config.bits - 1)
        self._ratio = 2.0**shift_bits
        self._least, self._greatest = (-(magnitudes - 1.0) if self._sign < 0 else 0.0), magnitudes - 1.0
        self._split = 0.0 if self._sign < 0 else magnitudes / self._ratio
        self._first_coarse_code = self._coarse_from = magnitudes
        self._shares_zero = True
        if self.config.bits == 1:
            self._ratio, self._least, self._greatest, self._split = 1.0, 0.0, 1.0, -math.inf
            self._first_coarse_code = self._coarse_from = 0
