"""MXFP4: E2M1 elements in blocks of 32."""

from __future__ import annotations

from typing import ClassVar

from autoq.quantizers._float_format import E2M1, FloatFormat
from autoq.quantizers._microscaling import BaseMicroscalingQuantizer


class MXFP4Quantizer(BaseMicroscalingQuantizer):
    """Four bits an element, the values 0, ½, 1, 1½, 2, 3, 4, 6 and their negatives, times a power of two a block.

    >>> import torch
    >>> from autoq.quantizers import OperandLayout
    >>> from autoq.recipe import OperandConfig
    >>> layout = OperandLayout(ndim=2, channel_axis=-1, summed_axis=-1)
    >>> one = torch.ones(1, 1)
    >>> quantizer = MXFP4Quantizer.from_range(OperandConfig(scheme="mxfp4", bits=4), layout, -one, one)
    >>> quantizer(torch.tensor([[0.1, 5.2, -12.0, 15.0]])).tolist()
    [[0.0, 6.0, -12.0, 12.0]]
    """

    scheme: ClassVar[str] = "mxfp4"
    element: ClassVar[FloatFormat] = E2M1
