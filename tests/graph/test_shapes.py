"""Shapes per image, whose entries lead, and the images that a graph is run on to find out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoq.errors import TraceError
from autoq.graph.clean import clean_
from autoq.graph.explain import export
from autoq.graph.shapes import NodeShape, Propagation, propagate, random_images
from tests.graph.small import Weighted, tokens, traced


def propagated(module: nn.Module, example: Tensor) -> dict[str, NodeShape]:
    graph_module = export(module.eval(), example)
    assert isinstance(graph_module, torch.fx.GraphModule)
    clean_(graph_module)
    graph_module.recompile()
    propagation = propagate(graph_module, example)
    assert isinstance(propagation, Propagation)
    assert torch.equal(propagation.batch[:1], example[:1])
    with torch.no_grad():
        assert torch.equal(propagation.output, graph_module(propagation.batch))  # type: ignore[arg-type]
    return {node.name: shape for node, shape in propagation.shapes.items()}


class Windows(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        by_image = self.layer(x.unflatten(1, (2, 3)).flatten(0, 1))
        by_token = self.layer(x.transpose(0, 1).flatten(0, 1))
        return by_image.sum(1).sum(0) + by_token.sum(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shapes_grow_with_the_batch_and_images_are_told_apart(dtype: torch.dtype) -> None:
    shapes = propagated(Windows().to(dtype), tokens().to(dtype))
    windows, flat = shapes["linear"], shapes["linear_1"]
    assert (windows.two, windows.three, windows.per_image) == ((4, 3, 8), (6, 3, 8), (2, 3, 8))
    assert windows.is_batched
    assert windows.numel_per_image == 48
    assert (flat.two, flat.three, flat.batch_axes) == ((12, 8), (18, 8), [0])
    assert not flat.is_batched  # token by token
    assert shapes["layer_weight"].is_constant


def test_a_graph_that_fails_on_another_batch_is_refused() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.ops.aten.reshape.default, (x, [2, 48])))
    with pytest.raises(TraceError, match=r"the traced model does not run on a batch of 3: .*; look for an operation"):
        propagate(torch.fx.GraphModule(nn.Module(), graph), tokens())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.uint8, torch.int64, torch.bool])
def test_random_images_have_dtype_and_range_of_the_example(dtype: torch.dtype) -> None:
    example = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]).to(dtype)
    example = example if dtype == torch.bool else example * 50 + 3
    images = random_images(example, 100)
    assert images.dtype == dtype
    assert images.shape == (100, 3)
    assert images.min() >= example.min()
    assert images.max() <= example.max()
    assert len(images.unique()) > (1 if dtype == torch.bool else 30)
    assert torch.equal(images, random_images(example, 100))


def test_random_images_where_the_example_has_no_range() -> None:
    assert random_images(torch.zeros(2, 100), 3).std() > 0.5
    assert random_images(torch.full((2, 100), torch.nan), 3).isfinite().all()
    assert random_images(torch.full((2, 100), 7), 3).unique().tolist() == [7]
    assert random_images(torch.zeros(2, 4, dtype=torch.complex64), 3).dtype == torch.complex64


@pytest.mark.parametrize("activation", [nn.LayerNorm(8), nn.Softmax(-1), nn.GELU(), nn.Identity()])
@pytest.mark.parametrize("images_first", [True, False])
def test_the_order_of_images_is_told_from_values(activation: nn.Module, images_first: bool) -> None:
    class Flattened(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            x = x if images_first else x.transpose(0, 1)
            y = self.layer(activation(x).reshape(-1, 8))
            return y.reshape(-1, 6, 8) if images_first else y.reshape(6, -1, 8).transpose(0, 1)

    found = traced(Flattened())
    layout = found.sites_by_name["layer"].operand("input").layout
    assert layout.instances_per_image == (6 if images_first else 1)
