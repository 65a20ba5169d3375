"""One range for what several operands take of a layer's output: queries, keys and values of one projection."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, fx, nn

from autoq.calibration.recording import OperandRecorder, OperandSample
from autoq.calibration.settings import CalibrationSettings
from autoq.errors import CalibrationError
from autoq.graph.insert import OperandKey
from autoq.graph.nodes import is_move, op_name
from autoq.graph.sites import Operand
from autoq.graph.trace import TracedModel
from autoq.quantizers.granularity import OperandLayout


def shared_recorders(
    traced: TracedModel, settings: CalibrationSettings, wanted: Collection[OperandKey], *, keeps_values: bool = True
) -> dict[OperandKey, SharedRecorder]:
    """Make a recorder for each layer whose output several operands share, if ranges are shared.

    Args:
        traced: the model.
        settings: say whether they are, and how much is kept.
        wanted: operands that are recorded; a layer's others are then watched, too, since they are parts of its output.
        keeps_values: whether they keep any, or ranges alone.

    Returns:
        By operand, the recorder of its layer.
    """
    groups = find_shared(traced).values() if settings.shares_ranges else ()
    found: dict[OperandKey, SharedRecorder] = {}
    for members in groups:
        if not members.keys().isdisjoint(wanted):
            ndims = {key: traced.sites_by_name[key[0]].operand(key[1]).layout.ndim for key in members}
            found |= dict.fromkeys(members, SharedRecorder(members, ndims, settings, keeps_values))
    return found


def find_shared(traced: TracedModel) -> dict[str, dict[OperandKey, float]]:
    """Find the operands of products of activations that are parts of one linear layer's output.

    Returns:
        By the name of the layer's node, at least two operands, in execution order, and the numbers by which they were
        multiplied on the way; queries, as a rule, by one over the square root of their channels.
    """
    found: dict[str, dict[OperandKey, float]] = {}
    for site, operand in traced.operands():
        if site.op in ("matmul", "bmm") and not operand.is_weight:
            key = site.name, operand.name
            source, factor = _source(traced.edges[key].source(traced.graph_module))
            if op_name(source) == "linear":
                found.setdefault(source.name, {})[key] = factor
    return {source: members for source, members in found.items() if len(members) > 1}


def equal_parts(traced: TracedModel) -> dict[str, int]:
    """Return, by linear site, into how many equal parts products take its output, where that is more than one.

    Three where queries, keys and values are one layer's: consecutive thirds of its output channels.
    """
    counts = {source: len(members) for source, members in find_shared(traced).items()}
    layers = {traced.node(site.name).name: site for site in traced.sites if site.op == "linear"}
    return {
        layers[source].name: count
        for source, count in counts.items()
        if source in layers and layers[source].operand("weight").shape[0] % count == 0
    }


def _source(node: fx.Node) -> tuple[fx.Node, float]:
    """Walk back through moves and products with positive numbers; return where that ends, and the factor."""
    factor = 1.0
    while True:
        number = node.args[1] if op_name(node) in ("mul", "div") else None
        if isinstance(number, int | float) and number > 0:
            factor = factor * number if op_name(node) == "mul" else factor / number
        elif not is_move(node):
            return node, factor
        node = node.args[0]  # type: ignore[assignment]


class SharedRecorder:
    """Records the output of a layer from the operands that are made of it, once all of a batch have come by."""

    def __init__(
        self,
        members: Mapping[OperandKey, float],
        ndims: Mapping[OperandKey, int],
        settings: CalibrationSettings,
        keeps_values: bool = True,
    ) -> None:
        """Start with nothing seen.

        Args:
            members: operands, each of which runs once a batch, and their factors.
            ndims: their numbers of dimensions.
            settings: how much is kept, and by which observer.
            keeps_values: whether values are kept, or ranges alone.
        """
        self._members, self._ndims = dict(members), dict(ndims)
        self._keeps_values = keeps_values
        self._parts: dict[OperandKey, Tensor] = {}
        self._settings = settings
        self._recorder: OperandRecorder | None = None
        self._sample: OperandSample | None = None

    @property
    def members(self) -> Collection[OperandKey]:
        """Operands that the layer's output is made of."""
        return self._members.keys()

    @property
    def is_empty(self) -> bool:
        """Whether no whole batch has come by."""
        return self._recorder is None

    def slot(self, key: OperandKey) -> nn.Module:
        """Return the module for the slot of a member."""
        return _Part(self, key)

    def add(self, key: OperandKey, x: Tensor) -> None:
        """Take a member's part of a batch."""
        self._parts[key] = x.reshape(x.shape[0], -1) / self._members[key]
        if len(self._parts) == len(self._members):
            whole = torch.cat(list(self._parts.values()), 1)
            if self._recorder is None:
                described = Operand("input", (1, whole.shape[1]), "other", OperandLayout(2, -1))
                keeps = self._keeps_values
                self._recorder = OperandRecorder(described, self._settings, "shared", keeps_values=keeps)
            self._recorder(whole)
            self._parts.clear()

    def sample(self, key: OperandKey) -> OperandSample:
        """Return what a member with one range knows: all values of the layer's output, times its factor.

        Raises:
            CalibrationError: no batch has run.
        """
        if self._recorder is None:
            raise CalibrationError("there are no calibration images")
        if self._sample is None:
            self._sample = self._recorder.sample()
        whole, factor, ndim = self._sample, self._members[key], self._ndims[key]

        def scaled(x: Tensor) -> Tensor:
            values = x if factor == 1 else x * factor
            return values.reshape(x.shape[0], *(1,) * (ndim - 2), x.shape[1])

        bounds = whole.observed.get("tensor")
        observed = {} if bounds is None else {"tensor": (scaled(bounds[0]), scaled(bounds[1]))}
        values = scaled(whole.values) if self._keeps_values else whole.values
        return OperandSample(values, scaled(whole.lower), scaled(whole.upper), None, None, observed)


class _Part(nn.Module):
    """Hands on what comes by to the recorder that several share."""

    def __init__(self, shared: SharedRecorder, key: OperandKey) -> None:
        super().__init__()
        self._shared, self._key = shared, key

    def forward(self, x: Tensor) -> Tensor:
        self._shared.add(self._key, x)
        return x
