"""The base class of the logarithmic quantizers, which differ in their bases and levels."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from autoq.quantizers._base import BaseQuantizer, OutputSearch, usable_out, working_dtype
from autoq.quantizers._label import SchemeLabel
from autoq.quantizers._logarithm import LogLevels, encode, round_to_levels, round_to_levels_
from autoq.quantizers.granularity import OperandLayout
from autoq.recipe import OperandConfig

GELU_SHIFT = 0.16997
"""Minus the least value of GELU to five decimals (AdaLog): what makes post-GELU activations non-negative."""


class BaseLogQuantizer(BaseQuantizer):
    """code = round(−log_base((x + shift) / scale)); value = scale · base^−code − shift.

    The last code, 2^bits − 1, stands for zero: it takes what is not positive, or below the last level. With
    ``overflow="extra_zero"`` all 2^bits codes are levels and zero is one code more, as in the published arithmetic.

    Adding the shift before and subtracting it after quantization is AdaLog's bias reparameterization (Wu et al.,
    "AdaLog", ECCV 2024), which folds the subtraction into the bias of the next layer, without its change of the model.

    Attributes:
        log_base_numerators: numerators n of the bases 2^(n / ``log_base_denominator``) that the scheme can have;
            calibration chooses among several.
        log_base_denominator: see ``log_base_numerators``.
        has_unit_scale_after_softmax: whether the scale of softmax outputs is 1 and not observed.
        scale: the greatest value, of shape ``layout.parameter_shape(...)``; 1 for softmax outputs.
        shift: one number that makes x non-negative: ``GELU_SHIFT`` for GELU outputs, 0 for softmax outputs.
        levels: the levels at scale one.
    """

    qparam_names: ClassVar[tuple[str, ...]] = ("scale", "shift")
    config_fields: ClassVar[tuple[str, ...]] = ("granularity", "overflow")
    output_search: ClassVar[OutputSearch | None] = "scale_and_log_base"
    log_base_numerators: ClassVar[tuple[int, ...]] = (1,)
    log_base_denominator: ClassVar[int] = 1
    has_unit_scale_after_softmax: ClassVar[bool] = True
    scale: Tensor
    shift: Tensor
    levels: LogLevels
    _values: Tensor
    _thresholds: Tensor

    @classmethod
    def from_range(cls, config: OperandConfig, layout: OperandLayout, lower: Tensor, upper: Tensor) -> Self:
        """Take the upper bound for the first level; shift negative lower bounds to zero, by ``GELU_SHIFT`` at least."""
        lower, upper = lower.detach().float(), upper.detach().float()
        least = lower.min()
        shift = torch.where(least < 0, (-least).clamp(min=GELU_SHIFT), torch.zeros_like(least))
        scale = (upper + shift).clamp(min=torch.finfo(torch.float32).tiny)
        return cls(config, layout, {"scale": scale, "shift": shift, **cls._qparams_without_data(config)})

    @classmethod
    def label(cls, config: OperandConfig) -> SchemeLabel:
        """Name the base: 2 if not overridden."""
        return replace(super().label(config), log_base="2")

    @classmethod
    def octaves_per_code(cls) -> Tensor:
        """Return the binary logarithm of every base that the scheme can have, of shape (bases,), float64."""
        return torch.tensor(cls.log_base_numerators, dtype=torch.float64) / cls.log_base_denominator

    @classmethod
    def levels_of_bases(cls, bits: int, count: int) -> Tensor:  # noqa: ARG003
        """Return the first levels at scale one of every base that the scheme can have.

        Args:
            bits: code width, on which rounded levels depend.
            count: levels of each base, zero not counted.

        Returns:
            Of shape (bases, count), float64.
        """
        return torch.exp2(-cls.octaves_per_code().unsqueeze(1) * torch.arange(count, dtype=torch.float64))

    @classmethod
    def _qparams_without_data(cls, config: OperandConfig) -> dict[str, Tensor]:  # noqa: ARG003
        """Return further parameters, which a range does not determine."""
        return {}

    @property
    def octaves(self) -> float:
        """The binary logarithm of the base: octaves from one level to the next."""
        return self.log_base_numerators[0] / self.log_base_denominator

    @property
    def significand_steps(self) -> int:
        """Into how many steps an octave's significands, in (½, 1], are rounded, counted from 0; 0: they are not."""
        return 0

    @abstractmethod
    def choose_levels(self, count: int) -> LogLevels:
        """Return ``count`` levels of this quantizer's base."""

    @property
    def learnable(self) -> tuple[str, ...]:
        """The scale, but for softmax outputs, whose scale is one so that nothing need be multiplied."""
        return ("scale",) if self._has_shift else ()

    def quantize(self, x: Tensor, groups: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Quantize to integer codes: levels from the greatest down, then zero (also for NaN)."""
        y = self._divide(x, self._broadcast(self.scale, x))
        codes = encode(y, self._thresholds).masked_fill(torch.isnan(y), self._thresholds.shape[0])
        return codes.to(torch.int32)

    def dequantize(self, codes: Tensor, groups: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return level times scale, less shift."""
        return self._multiply(self._values[codes.long()], self._broadcast(self.scale, codes))

    def fake_quantize(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Round to the levels by comparing with exact thresholds; no logarithm is computed."""
        scale = self._broadcast(self.scale, x)
        out = usable_out(x, out)
        if out is None and self._has_shift:  # so that shifting and dividing share it
            out = torch.empty_like(x, dtype=working_dtype(x.dtype))
        y = self.round_scaled(self._divide(x, scale, out)).mul_(scale)
        return (y.sub_(self.shift) if self._has_shift else y).to(x.dtype)

    def _fake_quantize_with_gradient(self, x: Tensor) -> Tensor:
        scale = self._broadcast(self.scale, x)
        y = self._divide(x, scale)
        # Adds an exact zero that carries the gradient; what lies outside 0..scale (infinities too) has none.
        inside = torch.where((y >= 0) & (y <= 1), y, torch.zeros_like(y))
        rounded = self.round_scaled(y.detach().clone()) + (inside - inside.detach())
        return self._multiply(rounded, scale).to(x.dtype)

    def _divide(self, x: Tensor, scale: Tensor, out: Tensor | None = None) -> Tensor:
        x = x.to(working_dtype(x.dtype))
        if self._has_shift:
            x = torch.add(x, self.shift, out=out)
        return torch.div(x, scale, out=out)

    def _multiply(self, y: Tensor, scale: Tensor) -> Tensor:
        return y * scale - self.shift if self._has_shift else y * scale

    def round_scaled(self, y: Tensor) -> Tensor:
        """Round values that were shifted and divided by the scale to the levels at scale one; may overwrite them."""
        if y.device.type != "cpu" or y.dtype != torch.float32 or torch.compiler.is_compiling():
            return round_to_levels(y, self._thresholds, self._values)
        round_to_levels_(y, self.levels)
        return y

    def _prepare(self) -> None:
        self._require_static_shape("scale")
        self._require(self.shift.numel() == 1, f"shift must be one number, got shape {tuple(self.shift.shape)}")
        self._require(bool((self.scale > 0).all()), f"scale must be positive, the least is {self.scale.min():g}")
        self._has_shift = bool(self.shift.any()) or self.shift.requires_grad
        self.levels = self.choose_levels(2**self.config.bits - (self.config.overflow == "zero_code"))
        self.register_buffer("_values", self.levels.values.to(self.scale.device), persistent=False)
        self.register_buffer("_thresholds", self.levels.thresholds.to(self.scale.device), persistent=False)
