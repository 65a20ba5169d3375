"""The logarithmic schemes in exact rational arithmetic, and quantizers of them to compare with it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from hypothesis import strategies as st

from autoq.quantizers import BaseQuantizer, OperandLayout, create_quantizer
from autoq.recipe import OperandConfig

VECTOR = OperandLayout(ndim=1, channel_axis=-1)


def config_of(scheme: str, bits: int, **options: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": scheme, "bits": bits} | options)


def make(config: OperandConfig, scale: float = 1.0, shift: float = 0.0) -> BaseQuantizer:
    qparams = {"scale": torch.tensor([scale]), "shift": torch.tensor([shift])}
    if config.scheme == "adalog":
        qparams["log_base_numerator"] = torch.tensor(config.log_base_numerator or 37)
    return create_quantizer(config, VECTOR, qparams)


def base_of(config: OperandConfig) -> tuple[int, int]:
    """The base's binary logarithm."""
    return {"log2": (1, 1), "log_sqrt2": (1, 2), "adalog": (config.log_base_numerator or 37, 37)}[config.scheme]


def reference_code(y: float, config: OperandConfig) -> int:
    """round(−log2(y) · r / q), ties to even, by comparing whole numbers: y^(2r) against 2^(−(2i + 1)q)."""
    q, r = base_of(config)
    levels = 2**config.bits - (config.overflow == "zero_code")
    if y < np.finfo(np.float32).tiny:
        return levels
    guess = max(0, round(-math.log2(y) * r / q) - 1) if math.isfinite(y) else 0
    power = Fraction(y) ** (2 * r) if math.isfinite(y) else Fraction(2)
    for code in range(guess, guess + 3):
        threshold = Fraction(1, 2 ** ((2 * code + 1) * q))
        if power > threshold or (power == threshold and code % 2 == 0):
            return min(code, levels)
    raise AssertionError(y)


def reference_value(code: int, config: OperandConfig) -> float:
    """Value of a code at scale one."""
    q, r = base_of(config)
    if code == 2**config.bits - (config.overflow == "zero_code"):
        return 0.0
    if config.scheme != "adalog":
        return 2.0 ** (-code * q / r)
    steps = 2 ** (config.bits + 1) - 2
    table = round(2.0 ** (-((q * code) % r) / r) * steps) / steps
    return 2.0 ** -math.floor(q * code / r) * table


configs = st.builds(
    config_of,
    scheme=st.sampled_from(["log2", "log_sqrt2", "adalog"]),
    bits=st.integers(1, 8),
    overflow=st.sampled_from(["zero_code", "extra_zero"]),
    log_base_numerator=st.integers(10, 137),
)


def check(x: torch.Tensor, config: OperandConfig) -> None:
    quantizer = make(config)
    codes, values = quantizer.quantize(x), quantizer(x)
    for element, code, value in zip(x.tolist(), codes.tolist(), values.tolist(), strict=True):
        assert code == reference_code(element, config), (element, config)
        assert value == torch.tensor(reference_value(code, config)).to(x.dtype).item(), (element, config)
