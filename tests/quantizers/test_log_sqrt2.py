"""Base √2."""

from __future__ import annotations

from typing import ClassVar

import torch

from autoq.quantizers import LogSqrt2Quantizer
from tests.contracts.quantizers import Case, QuantizerContract
from tests.quantizers.logarithms import config_of, make


class TestLogSqrt2Contract(QuantizerContract):
    gradient_is_one_within = (0.01, 0.49)
    cases: ClassVar[list[Case]] = [
        Case(config_of("log_sqrt2", 3), lower=0.0, upper=1.0),
        Case(config_of("log_sqrt2", 4, granularity="channel"), lower=0.0, upper=1.0),
        Case(config_of("log_sqrt2", 8, overflow="extra_zero"), lower=0.0, upper=1.0),
    ]


def test_values_are_powers_of_the_square_root_of_two() -> None:
    quantizer = make(config_of("log_sqrt2", 3), scale=3.0)
    expected = torch.tensor([3.0 * 2 ** (-code / 2) for code in range(7)] + [0.0])
    torch.testing.assert_close(quantizer.dequantize(torch.arange(8)), expected)
    # In half octaves: 2^-0.25 is the threshold between codes 0 and 1.
    assert quantizer.quantize(3 * torch.tensor([0.841, 0.840, 0.595, 0.594])).tolist() == [0, 1, 1, 2]
    assert LogSqrt2Quantizer.label(config_of("log_sqrt2", 3)).log_base == "√2"
