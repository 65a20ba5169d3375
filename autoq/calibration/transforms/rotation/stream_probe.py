"""Following residual streams through a traced graph, from what writes their channels to what reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from autoq.calibration.transforms.rewriting import BETA, BIAS, GAMMA, WEIGHT, is_constant
from autoq.calibration.transforms.rotation.numbering import NOTHING, find_order, find_source_axis, number_along
from autoq.calibration.transforms.rotation.spaces import LayerChannels, LayerScale
from autoq.calibration.transforms.rotation.streams import Place, Streams
from autoq.graph.nodes import PADS, WEIGHT_LAYERS, is_cast, is_move, op_name
from autoq.graph.probing import BaseProbe, argument_places, reads_shape

_SUMS = {"add", "sub"}
_SCALINGS = {"mul", "div"}
_POOLS = {"adaptive_avg_pool1d": -2, "adaptive_avg_pool2d": -3, "avg_pool1d": -2, "avg_pool2d": -3}
"""Means over positions, and the axis of channels before them."""
_PADDING = 4
"""Position of the padding among the arguments of a convolution."""


Places = Place | list[Place | None] | None


class StreamProbe(BaseProbe):
    """Finds the streams of a model while it runs on an image of zeros.

    Each linear layer or convolution starts a stream with its outputs; sums and concatenations make several into one.
    What commutes with an orthogonal matrix that leaves the vector of ones alone passes a stream on; whatever else
    touches its channels spoils it.

    Attributes:
        streams: what was found.
    """

    def __init__(self, graph_module: fx.GraphModule) -> None:
        """Start with no stream."""
        super().__init__(graph_module)
        self.streams = Streams()
        self._places: dict[fx.Node, Places] = {}
        self._constants: dict[fx.Node, tuple[fx.Node, Tensor]] = {}
        self._rules: dict[str, Callable[[fx.Node, Any], Places]] = {
            **dict.fromkeys(_SUMS, self._sum),
            **dict.fromkeys(_SCALINGS, self._scaling),
            **dict.fromkeys(("cat", "stack"), self._concatenation),
            **dict.fromkeys(("mean", "sum"), self._mean),
            **dict.fromkeys(_POOLS, self._mean),
            **dict.fromkeys(PADS, self._padding),
            "layer_norm": self._norm,
        }

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and see what it does to the streams among its inputs."""
        args, _ = self.fetch_args_kwargs_from_env(n)
        result = super().run_node(n)
        inputs = [source for source in n.all_input_nodes if self._places.get(source) and _reads_values(n, source)]
        place: Places = None
        if op_name(n) in WEIGHT_LAYERS:
            place = self._layer(n, args, inputs)
        elif inputs:
            rule = self._move if is_move(n) else self._rules.get(op_name(n))
            place = None if rule is None else rule(n, args)
            if place is None:
                self._spoil(inputs, n)
        elif is_move(n) and (constant := self._constant(n.args[0])) is not None:
            moved = constant[1] if is_cast(n) else self.move(n, constant[1])
            if isinstance(moved, Tensor):
                self._constants[n] = (constant[0], moved)
        self._places[n] = place
        return result

    def _spoil(self, sources: Sequence[fx.Node], by: fx.Node) -> None:
        for source in sources:
            places = self._places[source]
            for place in places if isinstance(places, list) else [places]:
                if place is not None:
                    self.streams.spoil(place.stream, by)

    def _place(self, node: object) -> Place | None:
        found = self._places.get(node) if isinstance(node, fx.Node) else None
        return found if isinstance(found, Place) else None

    def _layer(self, n: fx.Node, args: Any, inputs: list[fx.Node]) -> Place | None:
        """Let a linear layer or convolution read a stream, and start one."""
        weight = args[WEIGHT]
        bias = n.args[BIAS] if len(n.args) > BIAS else None
        axis = 1 - weight.ndim
        is_whole = is_constant(n.args[WEIGHT]) and (bias is None or is_constant(bias))
        is_whole = is_whole and weight.shape[1] == args[0].shape[axis]  # not of groups of channels
        place = self._place(n.args[0])
        pads = op_name(n) != "linear" and len(n.args) > _PADDING and n.args[_PADDING] not in ([0], [0, 0], [0, 0, 0])
        reads = is_whole and place is not None and place.axis == axis and not (place.norms and pads)
        if reads and place is not None:
            numbers = torch.arange(place.copies * place.width).view(place.copies, place.width)
            self.streams.readers.append((place.stream, LayerChannels(n.name, numbers, place.norms)))
        self._spoil([source for source in inputs if not (reads and source is n.args[0])], n)
        if not is_whole:
            return None
        stream, width = self.streams.start(), weight.shape[0]
        self.streams.writers.append((stream, LayerChannels(n.name, torch.arange(width).view(1, width))))
        return Place(stream, width, axis)

    def _move(self, n: fx.Node, args: Any) -> Places:
        places = self._places[n.args[0]]  # type: ignore[index]
        if isinstance(places, list):
            place: Place | None = places[args[1]]
            return place
        if places is None or is_cast(n):
            return places
        moved = self.move(n, number_along(args[0], places.axis))
        if isinstance(moved, Tensor):
            return self._moved(places, moved)
        found = [self._moved(places, part) for part in moved]
        return found if all(found) else None

    def _moved(self, place: Place, numbers: Tensor) -> Place | None:
        """Find a stream's place after a move; None where its tokens were torn apart."""
        # What LayerNorms did depends on the place on the axis: copies must then stay together.
        width = place.width * (place.copies if place.norms else 1)
        order = find_order(numbers, width)
        if order is None or (place.norms and order[1] != 1):
            return None
        return replace(place, axis=order[0], copies=place.copies if place.norms else order[1])

    def _padding(self, n: fx.Node, args: Any) -> Places:
        """Tokens of zeros stay zeros; a LayerNorm's shift would not be added to them."""
        place, rest = self._place(n.args[0]), list(args[2:])
        mode = rest.pop(0) if op_name(n) == "pad" and rest else "constant"
        if place is None or place.norms or mode != "constant" or any(rest) or n.kwargs:
            return None
        padded = torch.nn.functional.pad(number_along(args[0], place.axis), list(args[1]), value=NOTHING)
        return self._moved(place, padded)

    def _sum(self, n: fx.Node, args: Any) -> Places:
        if not all(isinstance(value, Tensor) for value in args[:2]):
            return None
        shape = _common_shape(args)
        found = self._combine(n, list(n.args[:2]), [shape, shape])
        if found is None or any(place.norms for place in found if place is not None):
            return None
        return next(place for place in found if place is not None)

    def _concatenation(self, n: fx.Node, args: Any) -> Places:
        parts = list(n.args[0])  # type: ignore[arg-type]
        found = self._combine(n, parts, [value.shape for value in args[0]])
        if found is None:
            return None
        whole = next(place for place in found if place is not None)
        norms = {place.norms if place is not None else () for place in found}
        numbers, start = [], 0
        for value in args[0]:
            numbers.append(number_along(value, whole.axis) + start)
            start += value.numel()
        order = find_order(self.move(n, numbers), whole.width)
        if order is None:
            return None
        grows = order[1] > whole.copies
        if len(norms) > 1 and not (grows and all(norms)):
            return None
        own = tuple(name for place in found if place is not None for name in place.norms) if grows else whole.norms
        return replace(whole, axis=order[0], copies=order[1], norms=own)

    def _combine(self, n: fx.Node, parts: list[Any], shapes: list[torch.Size]) -> list[Place | None] | None:
        """Make the streams among the parts of a sum or concatenation one, constants part of it.

        Returns:
            The place of each part in the common stream, None for constants; None if they do not fit together.
        """
        places = [self._place(part) for part in parts]
        known = [place for place in places if place is not None]
        shared = {(place.width, place.axis, place.copies) for place in known}
        if len(shared) != 1:
            return None
        axes: list[tuple[fx.Node, int]] = []
        for part, place, shape in zip(parts, places, shapes, strict=True):
            constant = self._constant(part) if place is None else None
            if place is None:
                axis = None if constant is None else _constant_axis(*constant, known[0], shape, self.fetch_attr)
                if constant is None or axis is None:
                    return None
                axes.append((constant[0], axis))
        stream = self.streams.join([place.stream for place in known])
        for source, axis in axes:
            self.streams.add_constant(stream, source, axis, by=n)
        return [None if place is None else replace(place, stream=stream) for place in places]

    def _constant(self, node: object) -> tuple[fx.Node, Tensor] | None:
        """Return the node that reads a moved parameter, and the numbers of its elements where they are now."""
        if not isinstance(node, fx.Node):
            return None
        if is_constant(node):
            value = self.fetch_attr(str(node.target))
            if not (isinstance(value, Tensor) and value.is_floating_point() and value.ndim):
                return None
            return node, torch.arange(value.numel(), device=value.device).view(value.shape)
        return self._constants.get(node)

    def _scaling(self, n: fx.Node, args: Any) -> Places:
        index = 0 if self._place(n.args[0]) is not None else 1
        place = self._place(n.args[index])
        other, factor = n.args[1 - index], args[1 - index]
        is_division = op_name(n) == "div"
        if place is None or place.norms or self._place(other) is not None or (is_division and index == 1):
            return None
        if n.kwargs:  # a division that rounds
            return None
        if not isinstance(factor, Tensor) or factor.ndim < -place.axis or factor.shape[place.axis] == 1:
            return place  # a number, or one for each token
        is_scale = not is_division and args[index].shape == _common_shape(args)
        scale = self._layer_scale(n, index, place, args[index].shape) if is_scale else None
        if scale is None:
            return None
        self.streams.scales.append((place.stream, scale))
        return place

    def _layer_scale(self, n: fx.Node, index: int, place: Place, shape: torch.Size) -> LayerScale | None:
        """Describe the multiplication of a layer's outputs, read by nothing else, by factors of their own."""
        constant, layer = self._constant(n.args[1 - index]), n.args[index]
        if constant is None or place.copies != 1:
            return None
        factors = constant[1].expand(shape).movedim(place.axis, -1).reshape(-1, place.width)
        while isinstance(layer, fx.Node) and len(layer.users) == 1 and is_move(layer):
            layer = layer.args[0]
        if not isinstance(layer, fx.Node) or len(layer.users) != 1 or op_name(layer) not in WEIGHT_LAYERS:
            return None
        same = bool((factors == factors[0]).all())
        return LayerScale(n.name, index, layer.name, constant[0].name, factors[0].cpu()) if same else None

    def _norm(self, n: fx.Node, args: Any) -> Places:
        place = self._place(n.args[0])
        if place is None or place.norms or place.axis != -1 or len(args[1]) != 1:
            return None
        parameters = [n.args[index] for index in (GAMMA, BETA) if len(n.args) > index and n.args[index] is not None]
        if not all(is_constant(parameter) for parameter in parameters):
            return None
        return replace(place, norms=(n.name,)) if parameters else place

    def _mean(self, n: fx.Node, args: Any) -> Places:
        """Pass on means over positions; a sum, or a mean with zeros around, would change what a LayerNorm added."""
        place, name = self._place(n.args[0]), op_name(n)
        if place is None or (place.norms and name not in ("mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d")):
            return None
        if name in _POOLS:
            return place if place.axis == _POOLS[name] else None
        if len(args) < 2 or not args[1]:
            return None
        ndim, keepdim = args[0].ndim, n.kwargs.get("keepdim", len(args) > 2 and args[2])
        dims = {dim % ndim for dim in args[1]}
        axis = place.axis % ndim
        if axis in dims:
            return None
        return place if keepdim else replace(place, axis=place.axis + sum(dim > axis for dim in dims))


def _common_shape(args: Any) -> torch.Size:
    return torch.broadcast_shapes(args[0].shape, args[1].shape)  # type: ignore[no-untyped-call, no-any-return]


def _reads_values(n: fx.Node, source: fx.Node) -> bool:
    places = list(argument_places(n, source))  # none if deeper in its arguments
    return not places or not all(reads_shape(n, index) for index, _ in places)


def _constant_axis(
    source: fx.Node, numbers: Tensor, place: Place, shape: torch.Size, fetch: Callable[[str], Any]
) -> int | None:
    """Find the axis of a constant that holds channels where it is combined with a stream in this shape."""
    if numbers.ndim < -place.axis or numbers.shape[place.axis] != shape[place.axis]:
        return None
    return find_source_axis(numbers.expand(shape), place.axis, place.width, fetch(str(source.target)).shape)
