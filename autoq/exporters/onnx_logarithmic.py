"""Logarithmic operands as a few operators that runtimes have fast kernels of.

Comparing with a threshold a level, as autoq does, takes runtimes a pass over the tensor for each; a logarithm, rounded
by QuantizeLinear, takes one in all. Values within rounding errors of a threshold may get the code beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from autoq.quantizers import BaseLogQuantizer, BaseQuantizer

if TYPE_CHECKING:
    from onnx import NodeProto

_GREATEST_CODE = 255
_OCTAVES = 125
"""Float32 has 126 below one; what is smaller than the last level here is zero."""


def logarithmic_nodes(
    quantizer: BaseLogQuantizer, name: str, tensor: str, result: str, constant: Callable[[str, np.ndarray], str]
) -> list[NodeProto]:
    """Return nodes that quantize: code = round(−log_base((x + shift) / scale)), value = scale · base^−code − shift.

    Codes are stored counted from the last, n: QuantizeLinear takes all that is beyond it to 0, which stands for zero.

    Args:
        quantizer: one that :func:`has_logarithmic_nodes` is true of.
        name: of the operand, with which names of tensors begin.
        tensor: to quantize, float32.
        result: name of the quantized tensor.
        constant: adds an initializer of some name and value, and returns the name.
    """
    chain, levels = _Chain(name, constant), _level_count(quantizer)
    shift, scale = float(quantizer.shift), quantizer.scale.detach().cpu()
    shift_name = chain.number("shift", shift) if shift else ""
    scale_name = ""
    if bool((scale != 1).any()):
        scale_name = constant(f"{name}.scale", (scale.reshape(()) if scale.numel() == 1 else scale).numpy())
    y = chain.add("Add", "shifted", tensor, shift_name) if shift_name else tensor
    y = chain.add("Div", "scaled", y, scale_name) if scale_name else y
    least, greatest = chain.number("least", 2.0 ** (-levels * quantizer.octaves)), chain.number("greatest", 1.0)
    y = chain.add("Log", "logarithm", chain.add("Clip", "clipped", y, least, greatest))
    last, step = constant(f"{name}.last", np.array(levels, np.uint8)), chain.number("step", _nats(quantizer))
    code = chain.add("QuantizeLinear", "code", y, step, last)
    if quantizer.significand_steps:
        y = _add_rounded_powers(chain, quantizer, code, last)
    else:
        y = chain.add("Exp", "power", chain.add("DequantizeLinear", "exponent", code, step, last))
    between = quantizer.choose_levels(levels + 1).values[levels - 1 :][:2].mean()
    y = chain.add("ThresholdedRelu", "level", y, alpha=float(between))
    y = chain.add("Mul", "rescaled", y, scale_name) if scale_name else y
    y = chain.add("Sub", "shifted_back", y, shift_name) if shift_name else y
    chain.nodes[-1].output[0] = result
    return chain.nodes


class _Chain:
    """Nodes of one operand, each on what earlier ones return.

    Attributes:
        nodes: in order.
    """

    def __init__(self, name: str, constant: Callable[[str, np.ndarray], str]) -> None:
        self._name, self._constant = name, constant
        self.nodes: list[NodeProto] = []

    def number(self, label: str, value: float) -> str:
        """Add a number, float32, and return its name."""
        return self._constant(f"{self._name}.{label}", np.array(value, np.float32))

    def add(self, operator: str, label: str, *inputs: str, **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        from onnx import helper

        self.nodes.append(helper.make_node(operator, list(inputs), [output := f"{self._name}.{label}"], **attributes))
        return output


def _add_rounded_powers(chain: _Chain, quantizer: BaseLogQuantizer, code: str, last: str) -> str:
    """Add base^−code with rounded significands: a power of two times a whole number of its steps."""
    steps, log_two = quantizer.significand_steps, chain.number("nats_in_octave", math.log(2))
    exponent = chain.add("DequantizeLinear", "exponent", code, chain.number("octaves", quantizer.octaves), last)
    octave = chain.add("Ceil", "octave", exponent)
    nats = chain.add("Mul", "fraction_nats", chain.add("Sub", "fraction", exponent, octave), log_two)
    significand = chain.add("Mul", "steps", chain.add("Exp", "significand", nats), chain.number("in_one", steps))
    power = chain.add("Exp", "power", chain.add("Mul", "octave_nats", octave, log_two))
    one = chain.add("Mul", "one_step", power, chain.number("step_of_one", 1 / steps))
    return chain.add("Mul", "rounded", chain.add("Round", "whole_steps", significand), one)


def has_logarithmic_nodes(quantizer: BaseQuantizer) -> TypeGuard[BaseLogQuantizer]:
    """Tell whether :func:`logarithmic_nodes` can write a quantizer.

    Its codes fit 8 bits, its levels are powers of the base, and the last is another value than what would follow it.
    """
    if not isinstance(quantizer, BaseLogQuantizer) or not _follows_the_formula(quantizer):
        return False
    levels = _level_count(quantizer)
    last, beyond = quantizer.choose_levels(levels + 1).values[levels - 1 :][:2].tolist()
    return levels <= _GREATEST_CODE and last != beyond


def _follows_the_formula(quantizer: BaseLogQuantizer) -> bool:
    """Whether thresholds are halfway between codes, and values powers of the base, significands rounded."""
    codes = np.arange(_level_count(quantizer))
    exponents = -codes * quantizer.octaves
    octaves = np.ceil(exponents)
    significands = 2.0 ** (exponents - octaves)
    if steps := quantizer.significand_steps:
        significands = np.round(significands * steps) / steps
    thresholds = quantizer.levels.thresholds.flip(0)[: len(codes)].numpy()
    values = quantizer.levels.values[: len(codes)].numpy()
    expected = 2.0 ** (-(codes + 0.5) * quantizer.octaves)
    return bool(
        np.allclose(values, significands * 2.0**octaves, 1e-5, 0) and np.allclose(thresholds, expected, 1e-5, 0)
    )


def _nats(quantizer: BaseLogQuantizer) -> float:
    """Return the natural logarithm of a quantizer's base."""
    return quantizer.octaves * math.log(2)


def _level_count(quantizer: BaseLogQuantizer) -> int:
    """Return how many levels there are, zero and those that float32 does not have left out."""
    return min(len(quantizer.levels.thresholds), int(_OCTAVES / quantizer.octaves))
