"""Base 2."""

from __future__ import annotations

from typing import ClassVar

import torch

from autoq.quantizers import Log2Quantizer
from tests.contracts.quantizers import ATTENTION_MAP, Case, QuantizerContract
from tests.quantizers.logarithms import config_of, make


class TestLog2Contract(QuantizerContract):
    gradient_is_one_within = (0.01, 0.49)
    cases: ClassVar[list[Case]] = [
        Case(config_of("log2", 1), lower=0.0, upper=1.0),
        Case(config_of("log2", 4), ATTENTION_MAP, (4, 3, 5, 6), lower=0.0, upper=1.0),
        Case(config_of("log2", 8), lower=0.0, upper=1.0),
    ]


def test_values_are_powers_of_two() -> None:
    quantizer = make(config_of("log2", 3), scale=3.0)
    assert quantizer.dequantize(torch.arange(8)).tolist() == [3.0 / 2**code for code in range(7)] + [0.0]
    # In octaves: 2^-0.5 is the threshold between codes 0 and 1.
    assert quantizer.quantize(3 * torch.tensor([0.708, 0.707, 0.354, 0.353])).tolist() == [0, 1, 1, 2]
    assert Log2Quantizer.label(config_of("log2", 3)).log_base == "2"
