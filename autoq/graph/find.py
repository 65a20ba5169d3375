"""Find the sites of a traced graph: which nodes multiply, what feeds them, what they are called and what they cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import fx

from autoq.graph.naming import NodeNames
from autoq.graph.nodes import TRANSPOSED_LAYERS, UNSUPPORTED_PRODUCTS, WEIGHT_LAYERS, op_name
from autoq.graph.producers import find_producer
from autoq.graph.shapes import NodeShape
from autoq.graph.sites import NO_PRODUCTS, GroupGeometry, Operand, Site, SiteOp, UncountedOp
from autoq.graph.sums import Sums
from autoq.quantizers.granularity import OperandLayout

_SITE_OPS: dict[str, tuple[SiteOp, tuple[tuple[int, str], ...]]] = {
    "linear": ("linear", ((0, "input"), (1, "weight"))),
    "conv1d": ("conv1d", ((0, "input"), (1, "weight"))),
    "conv2d": ("conv2d", ((0, "input"), (1, "weight"))),
    "conv3d": ("conv3d", ((0, "input"), (1, "weight"))),
    "conv_transpose2d": ("conv_transpose2d", ((0, "input"), (1, "weight"))),
    "matmul": ("matmul", ((0, "lhs"), (1, "rhs"))),
    "mm": ("matmul", ((0, "lhs"), (1, "rhs"))),
    "bmm": ("bmm", ((0, "lhs"), (1, "rhs"))),
    "addmm": ("matmul", ((1, "lhs"), (2, "rhs"))),
    "baddbmm": ("bmm", ((1, "lhs"), (2, "rhs"))),
    "layer_norm": ("layer_norm", ((0, "input"),)),
    "softmax": ("softmax", ((0, "input"),)),
    "_softmax": ("softmax", ((0, "input"),)),
    "add": ("add", ((0, "lhs"), (1, "rhs"))),
    "alias": ("output", ((0, "input"),)),
}
"""ATen operator to site kind, and which positional arguments are its operands; ``einsum`` takes a list of them."""

_CONSTANT = "computed once, not for every image"


@dataclass(frozen=True)
class OperandEdge:
    """The argument of a node into which a quantizer goes: ``args[index]``, or ``args[index][item]`` of an einsum."""

    node: str
    index: int
    item: int | None = None

    def source(self, graph_module: fx.GraphModule) -> fx.Node:
        """Find the node that feeds this edge."""
        node = next(node for node in graph_module.graph.nodes if node.name == self.node)
        return self.of(node)

    def of(self, node: fx.Node) -> fx.Node:
        """Get the argument of ``node`` at this edge."""
        argument = node.args[self.index]
        return argument if self.item is None else argument[self.item]  # type: ignore[index, return-value]


@dataclass(frozen=True)
class Finding:
    """The sites of a graph, the products that are none, and the edges of the sites' operands."""

    sites: tuple[Site, ...]
    uncounted: tuple[UncountedOp, ...]
    edges: dict[tuple[str, str], OperandEdge]


def find_sites(
    graph_module: fx.GraphModule, shapes: dict[fx.Node, NodeShape], outputs: Mapping[fx.Node, str]
) -> Finding:
    """Find the sites of a graph in execution order, and the products that are no sites.

    Args:
        graph_module: cleaned by ``clean_``.
        shapes: of its nodes, from ``propagate``.
        outputs: the nodes that hand out what the model returns, and its names, from ``hand_out_``.
    """
    names, sums = NodeNames(graph_module), Sums(graph_module, shapes)
    sites: list[Site] = []
    uncounted: list[UncountedOp] = []
    edges: dict[tuple[str, str], OperandEdge] = {}
    for node in graph_module.graph.nodes:
        kind = op_name(node)
        if kind in UNSUPPORTED_PRODUCTS:
            is_constant = node in shapes and shapes[node].is_constant
            unsupported = _CONSTANT if is_constant else "autoq has no site for this operation"
            uncounted.append(UncountedOp(names.name(node, kind), kind, unsupported))
            continue
        if (kind != "einsum" and kind not in _SITE_OPS) or (kind == "add" and node not in sums):
            continue
        if kind == "alias" and node not in outputs:
            continue
        operand_edges = dict(_operand_edges(node, kind))
        name = names.output(outputs[node]) if node in outputs else names.name(node, kind)
        op: SiteOp = "einsum" if kind == "einsum" else _SITE_OPS[kind][0]
        reason = _why_not(node, kind, operand_edges, shapes)
        if reason is not None:
            if op not in NO_PRODUCTS:
                uncounted.append(UncountedOp(name, kind, reason))
            continue
        if op in ("add", "output"):
            axis = sums.channel_axis(node)
            operands = tuple(_summand(label, edge.of(node), axis, shapes) for label, edge in operand_edges.items())
        else:
            operands = tuple(_describe(node, op, label, edge, shapes, names) for label, edge in operand_edges.items())
        sites.append(Site(name, op, _macs(node, op, operand_edges, shapes), operands))
        edges |= {(name, label): edge for label, edge in operand_edges.items()}
    return Finding(tuple(sites), tuple(uncounted), edges)


def _operand_edges(node: fx.Node, kind: str) -> Iterator[tuple[str, OperandEdge]]:
    if kind == "einsum":
        labels = ("lhs", "rhs") if len(node.args[1]) == 2 else tuple(f"operand{i}" for i in range(len(node.args[1])))  # type: ignore[arg-type]
        for item, label in enumerate(labels):
            yield label, OperandEdge(node.name, 1, item)
    else:
        for index, label in _SITE_OPS[kind][1]:
            yield label, OperandEdge(node.name, index)


def _why_not(node: fx.Node, kind: str, edges: dict[str, OperandEdge], shapes: dict[fx.Node, NodeShape]) -> str | None:
    """Why a node of a known kind is no site, or None if it is one."""
    if kind == "einsum" and len(edges) != 2:
        return f"an einsum of {len(edges)} operands is no product of two"
    if kind == "einsum" and "..." in str(node.args[0]):
        return "an einsum with an ellipsis is not analysed"
    if shapes[node].is_constant:
        return _CONSTANT
    if len(shapes[node].batch_axes) > 1:
        return "it mixes the images of a batch"
    if "input" in edges and shapes[edges["input"].of(node)].is_constant:
        return "its weight depends on the image and its input does not"
    return None


def _macs(node: fx.Node, op: SiteOp, edges: dict[str, OperandEdge], shapes: dict[fx.Node, NodeShape]) -> int:
    """Multiply-accumulates per image: elements of the output times terms of each sum.

    Padding counts as elements do; so does, where a convolution is transposed, what padding cuts off its output: each
    element of the input is multiplied with the whole kernel of each output channel.
    """
    output = shapes[node].numel_per_image
    if op in NO_PRODUCTS:
        return 0
    if "weight" in edges:
        weight = shapes[edges["weight"].of(node)].two
        times = shapes[edges["input"].of(node)].numel_per_image if op in TRANSPOSED_LAYERS else output
        return times * math.prod(weight[1:])
    if op == "einsum":
        inputs, result = _einsum_letters(str(node.args[0]))
        sizes: dict[str, int] = {}
        for letters, edge in zip(inputs.split(","), edges.values(), strict=True):
            sizes |= dict(zip(letters, shapes[edge.of(node)].two, strict=True))
        return output * math.prod(size for letter, size in sizes.items() if letter not in result)
    return output * shapes[edges["lhs"].of(node)].two[-1]


def _einsum_letters(equation: str) -> tuple[str, str]:
    """Inputs and result of an equation; one without an arrow keeps the letters that occur once."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        result = "".join(letter for letter in inputs if inputs.count(letter) == 1 and letter != ",")
    return inputs, result


def _describe(
    node: fx.Node, op: SiteOp, label: str, edge: OperandEdge, shapes: dict[fx.Node, NodeShape], names: NodeNames
) -> Operand:
    """Shape, producer, layout and group geometry of one operand."""
    source = edge.of(node)
    shape = shapes[source]
    if shape.is_constant:
        ndim = len(shape.two)
        channel_axis, group_axis = (-ndim, 1 - ndim) if label == "weight" else (-1, -2 if ndim > 1 else None)
        summed = _summed_axis(op, label, ndim)
        if op in TRANSPOSED_LAYERS:
            channel_axis, group_axis = 1 - ndim, -ndim
        if label == "weight" and _is_grouped(node, op, shapes[node.args[0]], shape.two):  # type: ignore[index]
            summed = None
        layout = OperandLayout(ndim, channel_axis, None, group_axis, None, 0, summed)
        return Operand(label, shape.two, "parameter", layout)
    producer = find_producer(source)
    if label == "input" and op in WEIGHT_LAYERS | TRANSPOSED_LAYERS:
        weight, output = shapes[node.args[1]].two, shapes[node].per_image  # type: ignore[index]
        layout, geometry = _layer_input(op, shape, weight, output, _is_grouped(node, op, shape, weight))
    elif op in ("matmul", "bmm"):
        is_key = label == "rhs" and names.role(node) == "qk"
        is_map = label == "lhs" and producer == "softmax"
        layout, geometry = _factor(op, shape, label, is_key, is_map, outputs=shapes[node].per_image[-1])
    else:
        layout, geometry = OperandLayout(len(shape.two), -1, instances_per_image=_instances(shape)), None
    return Operand(label, shape.per_image, producer, layout, geometry)


def _summand(label: str, source: fx.Node, channel_axis: int, shapes: dict[fx.Node, NodeShape]) -> Operand:
    """Shape, producer and layout of a summand, or of an output; it has no heads, and sums over nothing."""
    shape = shapes[source]
    ndim = len(shape.two)
    axis = channel_axis if -channel_axis <= ndim else -1
    if shape.is_constant:
        return Operand(label, shape.two, "parameter", OperandLayout(ndim, axis, instances_per_image=0))
    layout = OperandLayout(ndim, axis, instances_per_image=_instances(shape))
    return Operand(label, shape.per_image, find_producer(source), layout)


def _layer_input(
    op: SiteOp, shape: NodeShape, weight: tuple[int, ...], output: tuple[int, ...], is_grouped: bool
) -> tuple[OperandLayout, GroupGeometry | None]:
    """Layout and group geometry of the input of a linear layer or convolution.

    Args:
        op: kind of layer.
        shape: of the input.
        weight: shape of the weight, (outputs, inputs per group of a convolution, ...).
        output: shape of the output at batch size one.
        is_grouped: whether it is a convolution in groups.
    """
    ndim = len(shape.two)
    channel_axis = -1 if op == "linear" else 1 - ndim
    channels = shape.per_image[channel_axis]
    # One value per channel and image has no range of its own, so that groups would only add levels.
    has_several = shape.numel_per_image > channels
    geometry = None
    if shape.is_batched and has_several and not is_grouped:
        tokens, summed_terms, outputs = math.prod(output) // weight[0], math.prod(weight[1:]), weight[0]
        if op in TRANSPOSED_LAYERS:  # each element of the input feeds the whole kernel of each output
            tokens, summed_terms, outputs = shape.numel_per_image // channels, channels, math.prod(weight[1:])
        geometry = GroupGeometry(copies=1, tokens=tokens, channels=summed_terms, outputs=outputs)
    instance_axis = channel_axis if geometry else None
    summed = None if is_grouped else channel_axis
    return OperandLayout(ndim, channel_axis, None, channel_axis, instance_axis, _instances(shape), summed), geometry


def _is_grouped(node: fx.Node, op: SiteOp, shape: NodeShape, weight: tuple[int, ...]) -> bool:
    """Tell whether a layer is a convolution in groups, given its node, its input and the shape of its weight."""
    if op in TRANSPOSED_LAYERS:
        return [*node.args, *[None] * 7][6] not in (None, 1)
    return op != "linear" and weight[1] != shape.per_image[1 - len(shape.two)]


def _summed_axis(op: SiteOp, label: str, ndim: int) -> int | None:
    """Return the axis of a weight, or of a factor of a product, that is summed over."""
    if label == "weight":
        return -ndim if op in TRANSPOSED_LAYERS else 1 - ndim
    if op not in ("matmul", "bmm") or ndim < 2:
        return None
    return -1 if label == "lhs" else -2


def _factor(
    op: SiteOp, shape: NodeShape, label: str, is_key: bool, is_map: bool, outputs: int
) -> tuple[OperandLayout, GroupGeometry | None]:
    """Layout and group geometry of an operand of a product of two activations.

    Args:
        op: kind of product.
        shape: of the operand.
        label: ``lhs`` or ``rhs``.
        is_key: whether it holds the keys of an attention, transposed.
        is_map: whether it is an attention map, the result of a softmax, whose rows are grouped.
        outputs: columns of the result.
    """
    ndim, per_image = len(shape.two), shape.per_image
    head_axis = -3 if ndim >= 4 and shape.is_batched else None
    rows = is_map and shape.is_batched and ndim >= 3
    geometry = None
    if rows:
        copies = math.prod(per_image[:-2])
        geometry = GroupGeometry(copies, tokens=per_image[-1], channels=per_image[-2], outputs=outputs)
    summed = -1 if label == "lhs" else -2
    instance_axis = -2 if rows else None
    channel_axis = -2 if is_key else -1
    summed_axis = _summed_axis(op, label, ndim)
    layout = OperandLayout(ndim, channel_axis, head_axis, summed, instance_axis, _instances(shape), summed_axis)
    return layout, geometry


def _instances(shape: NodeShape) -> int:
    """Leading entries that belong to one image."""
    return shape.per_image[0] if shape.is_batched else 1
