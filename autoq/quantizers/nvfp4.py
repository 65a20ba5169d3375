"""NVFP4: E2M1 elements in blocks of 16, under a scale of E4M3 and one for the whole operand."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from autoq.quantizers._block_scaled import BaseBlockScaledQuantizer
from autoq.quantizers._float_format import E2M1, E4M3, FloatFormat

_LEAST = 2.0 ** (E4M3.least_exponent - E4M3.mantissa_bits)
"""The least positive value of E4M3: a scale of zero would lose its block."""


class NVFP4Quantizer(BaseBlockScaledQuantizer):
    """NVIDIA's format of four bits (NVIDIA, "Pretraining Large Language Models with NVFP4", 2025, section 2).

    The scale of a block is E4M3(max |x| / 6 / tensor_scale), under which its greatest magnitude is about 6, the
    greatest value of E2M1; ``tensor_scale`` is the greatest magnitude of all / (448 · 6), from calibration.

    Attributes:
        tensor_scale: what a block's scale of 1.0 stands for, a single number.

    >>> import torch
    >>> from autoq.quantizers import OperandLayout
    >>> from autoq.recipe import OperandConfig
    >>> layout = OperandLayout(ndim=2, channel_axis=-1, summed_axis=-1)
    >>> bound = torch.full((1, 1), 2688.0)
    >>> quantizer = NVFP4Quantizer.from_range(OperandConfig(scheme="nvfp4", bits=4), layout, -bound, bound)
    >>> quantizer(torch.tensor([[1.0, 6.4, -12.1]])).tolist()
    [[1.0, 6.0, -12.0]]
    """

    scheme: ClassVar[str] = "nvfp4"
    number_format: ClassVar[str] = "nvfp4"
    scale_significand_bits: ClassVar[int] = E4M3.mantissa_bits + 1
    qparam_names: ClassVar[tuple[str, ...]] = ("scale", "tensor_scale")
    element: ClassVar[FloatFormat] = E2M1
    block: ClassVar[int] = 16
    tensor_scale: Tensor

    @classmethod
    def tensor_qparams(cls, reach: Tensor) -> dict[str, Tensor]:
        """Let the greatest magnitude be 6 under a block scale of 448."""
        return {"tensor_scale": cls.scale_for(reach / E4M3.greatest)}

    @classmethod
    def block_scales(cls, reach: Tensor, tensor_scale: Tensor | None = None) -> Tensor:
        """Return values of E4M3, from the greatest magnitude of each block."""
        assert tensor_scale is not None  # noqa: S101 - a parameter of the scheme
        return E4M3.round(reach / cls.element.greatest / tensor_scale).clamp_(min=_LEAST)

    def _prepare(self) -> None:
        super()._prepare()
        is_single = self.tensor_scale.numel() == 1 and bool(self.tensor_scale > 0)
        self._require(is_single, "tensor_scale must be a single positive number")
