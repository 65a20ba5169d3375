"""Logarithmic operands as ONNX operators, against the quantizers."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from autoq.exporters.onnx_logarithmic import has_logarithmic_nodes, logarithmic_nodes
from autoq.quantizers import BaseLogQuantizer, OperandLayout, quantizer_class
from autoq.quantizers._logarithm import LogLevels, log_levels
from autoq.recipe import OperandConfig

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def quantizer_of(
    scheme: str, bits: int, *, lower: float = 0.0, upper: float = 1.0, heads: int = 0, **fields: object
) -> BaseLogQuantizer:
    """One of a tensor of shape (N, C), or with ``heads`` of (N, H, T, T)."""
    config = OperandConfig(scheme=scheme, bits=bits, granularity="head" if heads else "tensor", **fields)  # type: ignore[arg-type]
    layout = OperandLayout(4, -1, -3) if heads else OperandLayout(2, -1)
    shape = (1, heads, 1, 1) if heads else (1, 1)
    upper_bounds = upper * (1 + torch.arange(max(1, heads)).reshape(shape))
    made = quantizer_class(scheme).from_range(config, layout, torch.full(shape, lower), upper_bounds)
    assert isinstance(made, BaseLogQuantizer)
    return made


def run(quantizer: BaseLogQuantizer, x: Tensor) -> Tensor:
    """What onnxruntime makes of the nodes."""
    constants: dict[str, np.ndarray] = {}

    def constant(name: str, value: np.ndarray) -> str:
        assert name not in constants
        constants[name] = value
        return name

    nodes = logarithmic_nodes(quantizer, "site:input", "x", "y", constant)
    float32 = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes,
        "operand",
        [onnx.helper.make_tensor_value_info("x", float32, list(x.shape))],
        [onnx.helper.make_tensor_value_info("y", float32, list(x.shape))],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 21)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def is_apart(quantizer: BaseLogQuantizer, x: Tensor) -> Tensor:
    """Where a value is not within rounding errors of a threshold."""
    y = ((x + quantizer.shift) / quantizer.scale).double()
    thresholds = quantizer.levels.thresholds.double()
    nearest = (y.unsqueeze(-1) / thresholds - 1).abs().amin(-1)
    return nearest > 1e-5


CASES = [
    pytest.param(scheme, bits, fields, id=f"{scheme}-{bits}-{'-'.join(map(str, fields.values()))}")
    for scheme, fields in [
        ("log2", {}),
        ("log_sqrt2", {}),
        ("log_sqrt2", {"overflow": "extra_zero"}),
        ("adalog", {"log_base_numerator": 26}),
        ("adalog", {"log_base_numerator": 74, "overflow": "extra_zero"}),
        ("adalog", {"log_base_numerator": 11}),
    ]
    for bits in (2, 3, 4, 6)
]


@pytest.mark.parametrize(("scheme", "bits", "fields"), CASES)
@pytest.mark.parametrize("lower", [0.0, -0.3])
def test_values_are_the_quantizers(scheme: str, bits: int, fields: dict[str, object], lower: float) -> None:
    quantizer = quantizer_of(scheme, bits, lower=lower, upper=1.7, **fields)
    assert has_logarithmic_nodes(quantizer)
    octaves = torch.linspace(-40, 1, 5000)
    x = torch.cat([1.7 * torch.exp2(octaves) + lower, torch.tensor([lower, lower - 1, 0.0, 1e-42, 1.7, 9.0])])
    x = x.unsqueeze(0)
    apart = is_apart(quantizer, x)
    assert apart.float().mean() > 0.95
    torch.testing.assert_close(run(quantizer, x)[apart], quantizer(x)[apart], rtol=1e-5, atol=1e-6)


def test_a_scale_a_head() -> None:
    quantizer = quantizer_of("adalog", 4, heads=3, log_base_numerator=26)
    x = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0)) ** 4
    apart = is_apart(quantizer, x)
    torch.testing.assert_close(run(quantizer, x)[apart], quantizer(x)[apart], rtol=1e-5, atol=1e-6)


def test_what_float32_does_not_have_is_zero() -> None:
    """255 octaves: the levels below 2^-125 are left out."""
    quantizer = quantizer_of("log2", 8)
    assert has_logarithmic_nodes(quantizer)
    x = torch.exp2(torch.linspace(-124.2, 0.2, 400)).unsqueeze(0)
    apart = is_apart(quantizer, x)
    torch.testing.assert_close(run(quantizer, x)[apart], quantizer(x)[apart], rtol=1e-4, atol=0)
    assert run(quantizer, torch.tensor([[1e-38, 0.0]])).tolist() == [[0.0, 0.0]]


class OffsetLevels(BaseLogQuantizer):
    """Levels a tenth higher than powers of the base."""

    scheme: ClassVar[str] = "log2"

    def choose_levels(self, count: int) -> LogLevels:
        """Return the levels."""
        levels = log_levels(count, 1, 1)
        return LogLevels(1.1 * levels.values, levels.thresholds, levels.buckets, levels.bucket_values, levels.chain)


def test_what_has_other_operators() -> None:
    """Codes beyond 8 bits, levels of one value, other schemes, levels that are no powers of the base."""
    assert not has_logarithmic_nodes(quantizer_of("log_int_softmax", 4))
    fine = quantizer_of("adalog", 8, log_base_numerator=10, overflow="extra_zero")
    assert not has_logarithmic_nodes(fine)
    coarse = quantizer_of("adalog", 1, log_base_numerator=10)
    assert coarse.choose_levels(2).values[:2].tolist() == [1.0, 1.0]
    assert not has_logarithmic_nodes(coarse)
    config = OperandConfig(scheme="log2", bits=4)
    offset = OffsetLevels(config, OperandLayout(2, -1), {"scale": torch.ones(1, 1), "shift": torch.zeros(())})
    assert not has_logarithmic_nodes(offset)
    uniform = quantizer_class("uniform").from_range(
        OperandConfig(scheme="uniform", bits=4), OperandLayout(2, -1), torch.zeros(1, 1), torch.ones(1, 1)
    )
    assert not has_logarithmic_nodes(uniform)


@pytest.mark.parametrize("numerator", [10, 37, 137])
def test_octaves_are_those_of_the_levels(numerator: int) -> None:
    quantizer = quantizer_of("adalog", 6, log_base_numerator=numerator)
    assert quantizer.octaves == pytest.approx(numerator / 37)
    ratio = quantizer.levels.thresholds[-1] / quantizer.levels.thresholds[-2]
    assert math.log2(ratio) == pytest.approx(quantizer.octaves, rel=1e-5)
    assert quantizer.significand_steps == 126
