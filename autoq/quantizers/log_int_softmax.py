"""Base-2 logarithmic quantization by the integer rounding that follows an integer softmax."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from autoq.quantizers._base import IntegerOperation, OutputSearch
from autoq.quantizers._log_base import BaseLogQuantizer
from autoq.quantizers._logarithm import LogLevels, reciprocal_levels
from autoq.quantizers.granularity import OperandLayout
from autoq.recipe import OperandConfig


class LogIntSoftmaxQuantizer(BaseLogQuantizer):
    """FQ-ViT's quantizer of softmax outputs (Lin et al., "FQ-ViT", IJCAI 2022, §4.2, equations 13 to 19).

    With N = round(1 / x), ties to even, and k = floor(log2 N)::

        code  = clamp(LogRound(N), 0, 2^bits − 1),  LogRound(N) = k + 1 if N − 2^k ≥ 2^(k − 1) else k
        value = 2^−code

    The last code stands for zero, with ``overflow="extra_zero"`` (as published) one code more does. On the output of
    ``IntegerSoftmax``, which is 1 / N, this is Log-Int-Softmax. ``config.granularity`` is not read.

    Attributes:
        scale: 1, of as many dimensions as the operand, all of size one.
        shift: 0.
    """

    scheme: ClassVar[str] = "log_int_softmax"
    config_fields: ClassVar[tuple[str, ...]] = ("overflow",)
    output_search: ClassVar[OutputSearch | None] = None
    integer_operation: ClassVar[IntegerOperation | None] = "softmax"

    @classmethod
    def from_range(cls, config: OperandConfig, layout: OperandLayout, lower: Tensor, upper: Tensor) -> Self:  # noqa: ARG003
        """Make the same quantizer for every range: a softmax output lies in 0..1."""
        scale = torch.ones((1,) * layout.ndim, device=upper.device)
        return cls(config, layout, {"scale": scale, "shift": torch.zeros((), device=upper.device)})

    def choose_levels(self, count: int) -> LogLevels:
        """Return the first levels."""
        return reciprocal_levels(count)

    def _prepare(self) -> None:
        super()._prepare()
        self._require(bool((self.scale == 1).all()), f"scale must be 1, got {float(self.scale.flatten()[0]):g}")
        self._require(bool((self.shift == 0).all()), f"shift must be 0, got {float(self.shift):g}")
