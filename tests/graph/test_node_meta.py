"""What is kept of the results of nodes."""

from __future__ import annotations

import pickle

import torch
from torch import Tensor, nn

from autoq.graph.node_meta import NodeValue
from autoq.graph.trace import trace


class Halves(nn.Module):
    """Splits its channels, and multiplies by the number of images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.layer(x).chunk(2, -1)
        return (first + second).reshape(x.shape[0] * 3, 1) * x.shape[0]


def test_shapes_are_those_of_one_image_and_everything_can_be_pickled() -> None:
    graph = trace(Halves().eval(), torch.zeros(2, 4)).graph_module.graph
    nodes = {node.name: node for node in graph.nodes}
    cpu = torch.device("cpu")
    values = [node.meta.get("val") for node in graph.nodes]
    assert NodeValue((1, 4), torch.float32, cpu) in values, "the input"
    assert NodeValue((6, 4), torch.float32, cpu) in values, "the weight"
    assert [NodeValue((1, 3), torch.float32, cpu)] * 2 in values, "both halves"
    assert NodeValue((3, 1), torch.float32, cpu) in values, "three rows an image"
    assert 1 in values, "the number of images"
    [linear] = [node for name, node in nodes.items() if name.startswith("linear")]
    assert list(linear.meta["nn_module_stack"].values())[-1] == ("layer", "torch.nn.modules.linear.Linear")
    for node in graph.nodes:
        assert node.meta.keys() <= {"val", "nn_module_stack"}
        assert pickle.loads(pickle.dumps(node.meta)) == node.meta
