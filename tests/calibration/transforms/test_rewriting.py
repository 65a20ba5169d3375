"""A copy of a traced graph gets other parameters; the graph itself keeps its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration.transforms.rewriting import BETA, BIAS, GAMMA, WEIGHT, ParameterRewriter, exact, is_constant
from autoq.errors import CalibrationError
from autoq.graph.trace import TracedModel
from tests.graph.small import tokens, traced


class Scaled(nn.Module):
    """A LayerNorm without parameters, a layer without a bias, and a constant by which it is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8, elementwise_affine=False)
        self.layer = nn.Linear(8, 8, bias=False)
        self.gamma = nn.Parameter(torch.linspace(1, 2, 8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.norm(x)) * self.gamma


@pytest.fixture
def model() -> TracedModel:
    return traced(Scaled())


def names(model: TracedModel) -> dict[str, str]:
    """Nodes of the layer, the norm, the constant and the product."""
    nodes = model.graph_module.graph.nodes
    found = {node.name.split("_")[0]: node.name for node in nodes if node.op == "call_function"}
    constant = next(node.name for node in nodes if node.op == "get_attr" and node.target == "gamma")
    return {"layer": found["linear"], "norm": found["layer"], "product": found["mul"], "constant": constant}


def test_values_are_written_once_and_exactly(model: TracedModel) -> None:
    rewriter, node = ParameterRewriter(model), names(model)["layer"]
    weight = rewriter.value(node, WEIGHT)
    assert weight is not None
    assert weight.dtype == torch.float64
    assert rewriter.value(node, BIAS) is None
    rewriter.write_(node, WEIGHT, weight / 3)
    again = rewriter.value(node, WEIGHT)
    assert again is not None
    rewriter.write_(node, WEIGHT, again * 3)
    rewriter.write_(node, BIAS, torch.ones(8, dtype=torch.float64))
    new = rewriter.result()
    assert torch.equal(new.weight("layer"), model.weight("layer"))
    assert new.graph_module(tokens()).dtype == torch.float32
    gamma = model.graph_module.get_parameter("gamma")
    torch.testing.assert_close(new.graph_module(tokens()), model.graph_module(tokens()) + gamma)


def test_norms_without_parameters_get_some(model: TracedModel) -> None:
    rewriter, node = ParameterRewriter(model), names(model)
    for index, value in ((GAMMA, 2.0), (BETA, 0.0)):
        rewriter.write_(node["norm"], index, torch.full((8,), value, dtype=torch.float64), like=node["layer"])
    torch.testing.assert_close(rewriter.result().graph_module(tokens()), 2 * model.graph_module(tokens()))


def test_constants_and_bypasses(model: TracedModel) -> None:
    rewriter, node = ParameterRewriter(model), names(model)
    constant = rewriter.constant(node["constant"])
    assert torch.equal(constant, exact(model.graph_module.get_parameter("gamma")))
    rewriter.write_constant_(node["constant"], 2 * constant)
    assert torch.equal(rewriter.constant(node["constant"]), 2 * constant)
    new = rewriter.result()
    torch.testing.assert_close(new.graph_module(tokens()), 2 * model.graph_module(tokens()))
    assert {name for name, value in new.graph_module.named_parameters() if value.requires_grad} == {"layer.weight"}
    rewriter = ParameterRewriter(model)
    rewriter.bypass_(node["product"], 0)
    new = rewriter.result()
    torch.testing.assert_close(new.graph_module(tokens()) * constant.float(), model.graph_module(tokens()))
    assert [name for name, _ in new.graph_module.named_parameters()] == ["layer.weight"]


def test_overflow_is_refused(model: TracedModel) -> None:
    rewriter = ParameterRewriter(model)
    rewriter.write_(names(model)["layer"], WEIGHT, torch.full((8, 8), 1e300, dtype=torch.float64))
    with pytest.raises(
        CalibrationError, match=r"^layer: its new parameters overflow torch.float32; leave it as it is$"
    ):
        rewriter.result()


def test_constants_are_told_from_activations(model: TracedModel) -> None:
    nodes = {node.name: node for node in model.graph_module.graph.nodes}
    assert is_constant(nodes[names(model)["constant"]])
    assert not is_constant(nodes[names(model)["layer"]])
    assert not is_constant(None)
