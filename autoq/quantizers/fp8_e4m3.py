"""FP8: eight bits of floating point under a scale that calibration fixes."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from autoq.quantizers._float_base import BaseFloatQuantizer
from autoq.quantizers._float_format import E4M3, FloatFormat
from autoq.quantizers.granularity import OperandLayout
from autoq.recipe import OperandConfig


class FP8E4M3Quantizer(BaseFloatQuantizer):
    """Rounds x / scale to E4M3, whose greatest value is 448.

    A scale a tensor for activations and one an output channel for weights is what matrix engines rescale by
    (Micikevicius et al., "FP8 Formats for Deep Learning", 2022, section 3).

    Attributes:
        scale: what 1.0 stands for, of the shape that ``granularity`` gives parameters.

    >>> config = OperandConfig(scheme="fp8_e4m3", bits=8)
    >>> bound = torch.tensor([[448.0]])
    >>> quantizer = FP8E4M3Quantizer.from_range(config, OperandLayout(ndim=2, channel_axis=-1), -bound, bound)
    >>> quantizer(torch.tensor([[17.0, -300.0, 1000.0]])).tolist()
    [[16.0, -288.0, 448.0]]
    """

    scheme: ClassVar[str] = "fp8_e4m3"
    number_format: ClassVar[str] = "fp8"
    qparam_names: ClassVar[tuple[str, ...]] = ("scale",)
    config_fields: ClassVar[tuple[str, ...]] = ("granularity",)
    element: ClassVar[FloatFormat] = E4M3
    scale: Tensor

    @classmethod
    def from_range(cls, config: OperandConfig, layout: OperandLayout, lower: Tensor, upper: Tensor) -> Self:
        """Let the greatest magnitude between the bounds be 448."""
        reach = torch.maximum(lower.detach().abs(), upper.detach().abs()).float()
        return cls(config, layout, {"scale": cls.scale_for(reach)})

    def steps(self, x: Tensor) -> Tensor:
        """Return the scale, broadcastable against ``x``."""
        return self._broadcast(self.scale, x)

    def _prepare(self) -> None:
        super()._prepare()
        self._require_static_shape("scale")
        self._require(bool((self.scale > 0).all()), f"scale must be positive, the least is {self.scale.min():g}")
