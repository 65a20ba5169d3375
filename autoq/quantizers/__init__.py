"""Quantizers: tensor mathematics, one scheme a file, without models, search or calibration data.

To add a scheme, write a subclass of :class:`BaseQuantizer` in a file of its own and add it to ``QUANTIZERS`` below; the
contract tests in ``tests/contracts/quantizers.py`` say what it must fulfil.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from autoq.errors import RecipeError
from autoq.quantizers._base import BaseQuantizer
from autoq.quantizers._block_scaled import BaseBlockScaledQuantizer
from autoq.quantizers._float_base import BaseFloatQuantizer
from autoq.quantizers._label import SchemeLabel
from autoq.quantizers._log_base import BaseLogQuantizer
from autoq.quantizers.adalog import AdaLogQuantizer
from autoq.quantizers.fp8_e4m3 import FP8E4M3Quantizer
from autoq.quantizers.granularity import OperandLayout
from autoq.quantizers.hadamard import HadamardQuantizer
from autoq.quantizers.instance_groups import InstanceGroupQuantizer
from autoq.quantizers.integer_layer_norm import IntegerLayerNorm
from autoq.quantizers.integer_softmax import IntegerSoftmax
from autoq.quantizers.log2 import Log2Quantizer
from autoq.quantizers.log_int_softmax import LogIntSoftmaxQuantizer
from autoq.quantizers.log_sqrt2 import LogSqrt2Quantizer
from autoq.quantizers.mxfp4 import MXFP4Quantizer
from autoq.quantizers.mxint8 import MXINT8Quantizer
from autoq.quantizers.nvfp4 import NVFP4Quantizer
from autoq.quantizers.power_of_two_factor import PowerOfTwoFactorQuantizer
from autoq.quantizers.twin_uniform import TwinUniformQuantizer
from autoq.quantizers.twin_uniform_sum import TwinUniformSumQuantizer
from autoq.quantizers.uniform import UniformQuantizer
from autoq.recipe import OperandConfig
from autoq.registry import Registry

QUANTIZERS: Registry[type[BaseQuantizer]] = Registry(
    "quantization scheme",
    RecipeError,
    {
        cls.scheme: cls
        for cls in (
            UniformQuantizer,
            Log2Quantizer,
            LogSqrt2Quantizer,
            AdaLogQuantizer,
            InstanceGroupQuantizer,
            TwinUniformQuantizer,
            TwinUniformSumQuantizer,
            PowerOfTwoFactorQuantizer,
            LogIntSoftmaxQuantizer,
            HadamardQuantizer,
            FP8E4M3Quantizer,
            MXFP4Quantizer,
            MXINT8Quantizer,
            NVFP4Quantizer,
        )
    },
)
"""Quantizer classes by scheme, the name that recipes use."""


def quantizer_class(scheme: str) -> type[BaseQuantizer]:
    """Return the class of a scheme.

    Raises:
        RecipeError: there is no such scheme.
    """
    return QUANTIZERS.lookup(scheme)


def create_quantizer(config: OperandConfig, layout: OperandLayout, qparams: Mapping[str, Tensor]) -> BaseQuantizer:
    """Make a quantizer from its configuration and solved parameters, as ``BaseQuantizer.qparams`` returns them.

    Raises:
        RecipeError: there is no such scheme.
        CalibrationError: the parameters do not fit the scheme, the configuration or the layout.
    """
    return quantizer_class(config.scheme)(config, layout, qparams)


__all__ = [
    "QUANTIZERS",
    "AdaLogQuantizer",
    "BaseBlockScaledQuantizer",
    "BaseFloatQuantizer",
    "BaseLogQuantizer",
    "BaseQuantizer",
    "FP8E4M3Quantizer",
    "HadamardQuantizer",
    "InstanceGroupQuantizer",
    "IntegerLayerNorm",
    "IntegerSoftmax",
    "Log2Quantizer",
    "LogIntSoftmaxQuantizer",
    "LogSqrt2Quantizer",
    "MXFP4Quantizer",
    "MXINT8Quantizer",
    "NVFP4Quantizer",
    "OperandLayout",
    "PowerOfTwoFactorQuantizer",
    "SchemeLabel",
    "TwinUniformQuantizer",
    "TwinUniformSumQuantizer",
    "UniformQuantizer",
    "create_quantizer",
    "quantizer_class",
]
