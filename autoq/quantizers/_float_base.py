"""What the floating-point schemes share: values of an element format under scales."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from autoq.quantizers._base import BaseQuantizer, usable_out, working_dtype
from autoq.quantizers._float_format import FloatFormat
from autoq.quantizers._label import SchemeLabel
from autoq.quantizers.granularity import OperandLayout
from autoq.recipe import OperandConfig

_HEADROOM = 2.0**12
"""Scales stay below the greatest float32 by this factor, so that all values under them are finite."""


class BaseFloatQuantizer(BaseQuantizer):
    """Rounds x / step to an element format, ties to even, values beyond its greatest to that.

    Codes count the format's values in ascending order.

    Attributes:
        element: the format.
        levels: all its values in ascending order, of shape (values,).
    """

    element: ClassVar[FloatFormat]
    levels: Tensor

    @abstractmethod
    def steps(self, x: Tensor) -> Tensor:
        """Return what 1.0 of the format stands for (float32), broadcastable against ``x``."""

    @classmethod
    def scale_for(cls, reach: Tensor) -> Tensor:
        """Return the scale under which the format's greatest value is ``reach``: positive, and small enough."""
        least, most = torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max / _HEADROOM
        return (reach / cls.element.greatest).clamp(least, most)

    @classmethod
    def has_width(cls, bits: int) -> bool:
        """Tell whether it is the format's own."""
        return bits == cls.element.bits

    @classmethod
    def canonical_config(cls, config: OperandConfig, layout: OperandLayout, shape: Sequence[int]) -> OperandConfig:
        """Return the configuration with the format's own width, whatever was asked for."""
        plain = super().canonical_config(config, layout, shape)
        return plain.model_copy(update={"bits": cls.element.bits})

    @classmethod
    def label(cls, config: OperandConfig) -> SchemeLabel:  # noqa: ARG003
        """Mark the format by its name, which says all there is to say."""
        return SchemeLabel(cls.scheme)

    def quantize(self, x: Tensor, groups: Tensor | None = None) -> Tensor:
        """Quantize to the places of values in the format."""
        return self.element.codes(self._rounded(x, self.steps(x) if groups is None else groups))

    def dequantize(self, codes: Tensor, groups: Tensor | None = None) -> Tensor:
        """Return the values of codes; ``groups``, the steps, is needed where they depend on the values."""
        return self.levels[codes.long()] * (self.steps(codes) if groups is None else groups)

    def fake_quantize(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Divide, round and multiply."""
        steps = self.steps(x)
        y = torch.mul(self._rounded(x, steps), steps, out=usable_out(x, out))
        return y.to(x.dtype)

    def _fake_quantize_with_gradient(self, x: Tensor) -> Tensor:
        steps = self.steps(x.detach())
        quantized: Tensor = _StraightThrough.apply(x, steps, self)
        return quantized

    def _rounded(self, x: Tensor, steps: Tensor) -> Tensor:
        return self.element.round(x.to(working_dtype(x.dtype)) / steps)

    def _prepare(self) -> None:
        own, bits = self.element.bits, self.config.bits
        self._require(self.has_width(bits), f"the format has {own} bits, not {bits}; give bits = {own}")
        # Any buffer tells the device.
        device = next(self.buffers()).device
        self.register_buffer("levels", self.element.levels().to(device), persistent=False)


class _StraightThrough(torch.autograd.Function):
    """Fake quantization whose gradient is one inside the range of the format, and zero where values saturate."""

    @staticmethod
    def forward(context: Any, x: Tensor, steps: Tensor, quantizer: BaseFloatQuantizer) -> Tensor:
        context.save_for_backward((x / steps).abs() <= quantizer.element.greatest)
        return quantizer.fake_quantize(x)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (is_inside,) = gradients, context.saved_tensors
        return gradient * is_inside, None, None
