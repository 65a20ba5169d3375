"""Shapes of all nodes per image, and whether their leading entries belong to one image after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from autoq.errors import TraceError
from autoq.graph.explain import first_line
from autoq.graph.verify import seeded


@dataclass(frozen=True)
class NodeShape:
    """Shape of a node at batch sizes two and three, from which the batch axis follows.

    Attributes:
        two: shape for a batch of two images.
        three: shape for a batch of three.
        in_image_order: whether the leading entries are those of the first image, then those of the second, and so on,
            as for the windows of windowed attention; not so for (tokens × images, channels).
    """

    two: tuple[int, ...]
    three: tuple[int, ...]
    in_image_order: bool = True

    @property
    def batch_axes(self) -> list[int]:
        """Axes that grow with the batch: none for constants, one as a rule, two where images are mixed."""
        return [axis for axis, (a, b) in enumerate(zip(self.two, self.three, strict=True)) if a != b]

    @property
    def is_constant(self) -> bool:
        """Whether the node is the same for any number of images."""
        return not self.batch_axes

    @property
    def is_batched(self) -> bool:
        """Whether the leading axis holds the images, one after the other."""
        return self.batch_axes == [0] and self.in_image_order

    @property
    def per_image(self) -> tuple[int, ...]:
        """Shape at batch size one."""
        return tuple(2 * a - b for a, b in zip(self.two, self.three, strict=True))

    @property
    def numel_per_image(self) -> int:
        """Elements that one image adds."""
        return math.prod(self.three) - math.prod(self.two)


@dataclass(frozen=True)
class Propagation:
    """What running a traced model showed.

    Attributes:
        shapes: of each node that gives a tensor.
        batch: three images, shape (3, ...): the first is the example's, two are random.
        output: what the traced model returned for ``batch``.
    """

    shapes: dict[fx.Node, NodeShape]
    batch: Tensor
    output: object


def propagate(graph_module: fx.GraphModule, example: Tensor) -> Propagation:
    """Run the graph on batches of two and three images.

    Raises:
        TraceError: the graph does not run at another batch size than the traced one.
    """
    batch = torch.cat([example[:1], random_images(example, 2)])
    two, other, three = (_Recorder(graph_module) for _ in range(3))
    two.record(batch[:2])
    output = three.record(batch)
    several = (len(shape) > 1 and 2 < shape[0] < three.shapes[node][0] for node, shape in two.shapes.items())
    if any(several):
        other.record(batch[::2])
    shapes = {}
    for node, shape in two.shapes.items():
        in_order = True
        if node in two.norms and node in other.norms:
            half = shape[0] // 2
            a, b = two.norms[node][:half], other.norms[node][:half]
            in_order = torch.allclose(a, b, rtol=1e-4, equal_nan=True)
        shapes[node] = NodeShape(shape, three.shapes[node], in_order)
    return Propagation(shapes, batch, output)


def random_images(example: Tensor, count: int) -> Tensor:
    """Draw images like those of an example, the same ones each time.

    Args:
        example: shape (N, ...), any dtype and device.
        count: how many.

    Returns:
        Shape (count, ...), uniform between the least and the greatest value of ``example``; normal where these are
        equal or not finite. Integers that are all the same stay so: what else the model takes is not known.
    """
    shape = (count, *example.shape[1:])
    generator = torch.Generator().manual_seed(0)
    if example.is_complex():
        return torch.randn(shape, generator=generator, dtype=example.dtype).to(example.device)
    low, high = (float(bound) for bound in torch.aminmax(example.float()))
    if not example.is_floating_point():
        return torch.randint(int(low), int(high) + 1, shape, generator=generator).to(example)
    if low < high and math.isfinite(high - low):
        return (low + (high - low) * torch.rand(shape, generator=generator)).to(example)
    return torch.randn(shape, generator=generator).to(example)


class _Recorder(fx.Interpreter):
    """Keeps the shape of every tensor, and norms of its leading entries, which tell whose they are."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        super().__init__(graph_module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.norms: dict[fx.Node, Tensor] = {}

    def record(self, batch: Tensor) -> object:
        """Run on a batch and return the model's output."""
        try:
            with torch.no_grad(), seeded(batch.device):
                return self.run(batch.clone())
        except Exception as error:  # any operator may fail, with any type
            raise TraceError(
                f"the traced model does not run on a batch of {len(batch)}: {first_line(error)}; "
                "look for an operation that fixes the batch size"
            ) from error

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and take notes."""
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.shapes[n] = tuple(result.shape)
            if result.ndim > 1 and result.is_floating_point() and n.op != "get_attr":
                # The third power: layer norms and softmaxes are made to have equal sums, or sums of squares.
                others = tuple(range(1, result.ndim))
                dtype = torch.promote_types(result.dtype, torch.float32)
                self.norms[n] = torch.linalg.vector_norm(result, 3, dim=others, dtype=dtype)
        return result
