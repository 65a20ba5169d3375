"""MXINT8: eight-bit integers in blocks of 32."""

from __future__ import annotations

from typing import ClassVar

from autoq.quantizers._float_format import INT8, FloatFormat
from autoq.quantizers._microscaling import BaseMicroscalingQuantizer


class MXINT8Quantizer(BaseMicroscalingQuantizer):
    """Multiples of 1/64 from −127/64 to 127/64, times a power of two a block; −2 is left out, as the OCP allows.

    >>> import torch
    >>> from autoq.quantizers import OperandLayout
    >>> from autoq.recipe import OperandConfig
    >>> layout = OperandLayout(ndim=2, channel_axis=-1, summed_axis=-1)
    >>> one = torch.ones(1, 1)
    >>> quantizer = MXINT8Quantizer.from_range(OperandConfig(scheme="mxint8", bits=8), layout, -one, one)
    >>> quantizer(torch.tensor([[0.1, 1.0, -1.999]])).tolist()
    [[0.09375, 1.0, -1.984375]]
    """

    scheme: ClassVar[str] = "mxint8"
    element: ClassVar[FloatFormat] = INT8
