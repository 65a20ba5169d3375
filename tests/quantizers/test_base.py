"""What quantizers inherit: checks of parameters, canonical configurations, types of arithmetic."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autoq.errors import CalibrationError
from autoq.quantizers import OperandLayout, UniformQuantizer
from autoq.quantizers._base import usable_out, working_dtype
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import ATTENTION_MAP, LINEAR_INPUT, LINEAR_WEIGHT


def uniform(bits: int = 4, **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "uniform", "bits": bits} | fields)


def make(scale: torch.Tensor, **fields: object) -> UniformQuantizer:
    return UniformQuantizer(uniform(**fields), LINEAR_INPUT, {"scale": scale, "zero_point": torch.zeros_like(scale)})


@pytest.mark.parametrize(
    ("config", "layout", "shape", "expected"),
    [
        (uniform(granularity="head"), LINEAR_INPUT, (1, 5, 8), uniform()),
        (uniform(granularity="head"), ATTENTION_MAP, (1, 3, 5, 5), uniform(granularity="head")),
        (uniform(granularity="group", groups=1), LINEAR_INPUT, (1, 5, 8), uniform()),
        (uniform(granularity="group", groups=1), LINEAR_WEIGHT, (6, 8), uniform(granularity="channel")),
        (
            uniform(granularity="group", groups=99),
            LINEAR_WEIGHT,
            (6, 8),
            uniform(granularity="group", groups=8),
        ),
        (uniform(granularity="channel", groups=3, log_base_numerator=20), LINEAR_INPUT, (1, 5, 8), None),
        (uniform(overflow="extra_zero", symmetric=True), LINEAR_INPUT, (1, 5, 8), uniform(symmetric=True)),
    ],
)
def test_one_way_to_write_a_configuration(
    config: OperandConfig, layout: OperandLayout, shape: tuple[int, ...], expected: OperandConfig | None
) -> None:
    expected = uniform(granularity="channel") if expected is None else expected
    assert UniformQuantizer.canonical_config(config, layout, shape) == expected


@pytest.mark.parametrize(
    ("config", "qparams", "complaint"),
    [
        (OperandConfig(scheme="log2", bits=4), {}, "UniformQuantizer was given the configuration of scheme 'log2'"),
        (uniform(), {"scale": [1.0]}, r"uniform needs parameters \('scale', 'zero_point'\), got \('scale',\)"),
        (uniform(), {"scale": [torch.inf], "zero_point": [0.0]}, "uniform: parameter 'scale' has NaN or infinite"),
        (uniform(), {"scale": [1.0], "zero_point": [0.0]}, r"'scale' of shape \(1,\) does not fit .*'tensor'.* 3 dim"),
        (uniform(), {"scale": [[[1.0, 1.0]]], "zero_point": [[[0.0]]]}, r"of shape \(1, 1, 2\) does not fit"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    config: OperandConfig, qparams: dict[str, object], complaint: str
) -> None:
    tensors = {name: torch.tensor(value) for name, value in qparams.items()}
    with pytest.raises(CalibrationError, match=complaint):
        UniformQuantizer(config, LINEAR_INPUT, tensors)


def test_parameters_are_copies_in_float32() -> None:
    scale = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    quantizer = make(scale)
    scale.fill_(3.0)
    assert quantizer.qparams()["scale"].item() == 0.5
    assert quantizer.qparams()["scale"].dtype == torch.float32


def test_a_loaded_state_is_checked() -> None:
    quantizer = make(torch.ones(1, 1, 1))
    with pytest.raises(CalibrationError, match="uniform"):
        quantizer.load_state_dict({"scale": torch.full((1, 1, 1), -1.0), "zero_point": torch.zeros(1, 1, 1)})


def test_casts_move_buffers_but_keep_their_type() -> None:
    quantizer = make(torch.full((1, 1, 1), 0.1))
    nn.Sequential(quantizer).to("meta", torch.bfloat16)
    assert quantizer.scale.device.type == "meta"
    assert quantizer.scale.dtype == torch.float32


def test_types_of_arithmetic() -> None:
    assert working_dtype(torch.float64) == torch.float64
    assert {working_dtype(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)} == {torch.float32}
    x, out = torch.zeros(3, 4), torch.empty(3, 4)
    assert usable_out(x, out) is out
    assert usable_out(x.double(), out) is None
    assert usable_out(x.bfloat16(), torch.empty(3, 4, dtype=torch.bfloat16)) is None
    assert usable_out(x, torch.empty(4, 3).t()) is None
    assert usable_out(x, None) is None


def test_it_prints_its_configuration() -> None:
    quantizer = make(torch.ones(1, 1, 12), granularity="channel", bits=5)
    assert repr(quantizer) == "UniformQuantizer(bits=5, granularity='channel')"
