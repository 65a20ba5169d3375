"""RepQ-ViT's LayerNorm scale reparameterization: one scale for channels that each want their own.

Li et al., "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers", ICCV 2023,
section 3.2. The LayerNorm and the linear layers after it are changed so that full precision stays what it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from autoq.calibration.capture import run_observed
from autoq.errors import CalibrationError
from autoq.graph.consumers import linears_by_norm
from autoq.graph.insert import QuantizedModel
from autoq.graph.nodes import WEIGHT_LAYERS
from autoq.graph.trace import TracedModel
from autoq.quantizers._affine import choose_affine_qparams
from autoq.validation import did_you_mean

_GAMMA, _BETA = 2, 3
"""Positions of the parameters among the arguments of ``layer_norm``."""
_WEIGHT, _BIAS = 1, 2
"""The same for ``linear``."""


@dataclass(frozen=True)
class ChannelFactors:
    """How a LayerNorm's output X changes: X' = (X + offset) / ratio, channel by channel.

    Attributes:
        ratio: r1 = s / s̃, positive, of shape (C,).
        offset: s ⊙ r2, r2 = z − z̃, of shape (C,).
    """

    ratio: Tensor
    offset: Tensor


def choose_factors(lower: Tensor, upper: Tensor, bits: int) -> ChannelFactors:
    """Choose the factors with which one scale and zero point do what one for each channel would.

    With s and z, the scale and zero point of each channel between its bounds, and s̃ and z̃, their means over the
    channels that have a range, round(X' / s̃) + z̃ = round(X / s) + z. The published code does not round z̃; zero points
    are codes, and r2 takes up the difference exactly. Channels without a range of their own stay as they are.

    Args:
        lower: least value of each channel, C numbers in any shape.
        upper: greatest value of each channel, likewise.
        bits: code width.
    """
    scale, zero_point = choose_affine_qparams(lower.flatten(), upper.flatten(), bits, include_zero=True)  # (C,)
    # A channel that is always zero would be blown up without end, and its neighbours' mean scale drawn towards zero.
    has_range = scale > scale.max() * torch.finfo(torch.float32).eps
    shared_scale, shared_zero_point = scale[has_range].mean(), zero_point[has_range].mean().round()
    ratio = torch.where(has_range, scale / shared_scale, torch.ones_like(scale))
    offset = torch.where(has_range, scale * (zero_point - shared_zero_point), torch.zeros_like(scale))
    return ChannelFactors(ratio, offset)


def rewritable_norms(traced: TracedModel) -> tuple[str, ...]:
    """List LayerNorms that :func:`reparameterize` can rewrite, without those that feed the last weight layer.

    In published vision transformers these are the ones before qkv, fc1 and Swin's reduction: all but the classifier's.
    """
    weight_layers = [site.name for site in traced.sites if site.op in WEIGHT_LAYERS]
    return tuple(norm for norm, linears in _rewritable(traced).items() if weight_layers[-1] not in linears)


def observe_factors(
    model: QuantizedModel,
    batches: Iterable[Tensor],
    norms: Mapping[str, int],
    progress: Callable[[int], None] | None = None,
) -> dict[str, ChannelFactors]:
    """Choose factors from the ranges that the linear layers after each LayerNorm see in full precision.

    Args:
        model: its slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device.
        norms: LayerNorm sites, and the bits of the quantizers that they feed.
        progress: called with the number of images of each finished batch.

    Raises:
        CalibrationError: a LayerNorm cannot be rewritten or has NaN or infinite values, or there is no image.
    """
    rewritable = _rewritable(model.traced)
    for norm in norms:
        if norm not in rewritable:
            raise CalibrationError(_refusal(model.traced, norm))
    observers = {norm: _ChannelRange() for norm in norms}
    slots = {(linear, "input"): observer for norm, observer in observers.items() for linear in rewritable[norm]}
    run_observed(model, slots, batches, progress)
    return {norm: choose_factors(*observer.bounds(norm), norms[norm]) for norm, observer in observers.items()}


def reparameterize(traced: TracedModel, factors: Mapping[str, ChannelFactors]) -> TracedModel:
    """Scale and shift the outputs of LayerNorms, and undo it in the linear layers that read them.

    γ' = γ / r1, β' = (β + s ⊙ r2) / r1; W' = W diag(r1), b' = b − W (s ⊙ r2). Parameters that are missing are added. In
    full precision the model stays the same to rounding.

    Args:
        traced: left as it is; the new model shares all its other parameters. Where several sites share parameters, only
            the named ones get changed copies.
        factors: by LayerNorm site.

    Returns:
        A model with the same sites and operands.

    Raises:
        CalibrationError: names a site that is no LayerNorm, that anything but linear layers reads, whose parameters
            depend on the image, or whose factors do not fit.
    """
    rewritable = _rewritable(traced)
    rewriter = _Rewriter(traced)
    for norm, chosen in factors.items():
        if norm not in rewritable:
            raise CalibrationError(_refusal(traced, norm))
        channels = traced.sites_by_name[norm].operand("input").shape[-1]
        _check_factors(norm, chosen, channels)
        rewriter.rewrite_(norm, rewritable[norm], _exact(chosen.ratio).flatten(), _exact(chosen.offset).flatten())
    return rewriter.result()


class _ChannelRange(nn.Module):
    """Sits in the slots of a LayerNorm's readers and keeps the least and greatest value of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        values = torch.stack([*self._seen, *x.flatten(0, -2).float().aminmax(dim=0)])
        self._seen = list(values.aminmax(dim=0))
        return x

    def bounds(self, norm: str) -> tuple[Tensor, Tensor]:
        """Return least and greatest values, of shape (C,) each."""
        if not self._seen:
            raise CalibrationError("there are no calibration images")
        lower, upper = self._seen
        if not (torch.isfinite(lower).all() and torch.isfinite(upper).all()):
            raise CalibrationError(f"{norm} has NaN or infinite values in full precision: check the weights")
        return lower, upper


def _rewritable(traced: TracedModel) -> dict[str, tuple[str, ...]]:
    """Find norms and the linear layers that read them, where all parameters are the model's own."""
    nodes = {node.name: node for node in traced.graph_module.graph.nodes}

    def are_constant(site: str, *indices: int) -> bool:
        arguments = nodes[traced.edges[site, "input"].node].args
        parameters = [arguments[index] for index in indices if index < len(arguments)]
        return all(parameter is None or _is_constant(parameter) for parameter in parameters)

    return {
        norm: linears
        for norm, linears in linears_by_norm(traced).items()
        if are_constant(norm, _GAMMA, _BETA) and all(are_constant(linear, _WEIGHT, _BIAS) for linear in linears)
    }


def _is_constant(argument: object) -> bool:
    return isinstance(argument, fx.Node) and argument.op == "get_attr"


def _refusal(traced: TracedModel, norm: str) -> str:
    norms = [site.name for site in traced.sites if site.op == "layer_norm"]
    if norm not in norms:
        return f"the model has no LayerNorm {norm!r} to reparameterize.{did_you_mean(norm, norms)}"
    return (
        f"LayerNorm {norm!r} cannot be reparameterized: its output must be read, channel by channel, by linear layers "
        "with constant weights and by nothing else; leave it out"
    )


def _check_factors(norm: str, factors: ChannelFactors, channels: int) -> None:
    for name, value in (("ratio", factors.ratio), ("offset", factors.offset)):
        if value.numel() != channels:
            raise CalibrationError(f"LayerNorm {norm!r} has {channels} channels, but its {name} has {value.numel()}")
        if not torch.isfinite(value).all():
            raise CalibrationError(f"LayerNorm {norm!r}: its {name} has NaN or infinite entries; check its bounds")
    if not (factors.ratio > 0).all():
        raise CalibrationError(f"LayerNorm {norm!r}: its ratio must be positive, the least is {factors.ratio.min():g}")


def _exact(value: Tensor) -> Tensor:
    """Convert to double precision, so that what is written is rounded once; on the CPU, as not every device has it."""
    return value.detach().to("cpu", torch.float64)


class _Rewriter:
    """A copy of a traced graph whose sites get new parameters."""

    def __init__(self, traced: TracedModel) -> None:
        self._traced = traced
        old = traced.graph_module.graph
        self._graph = copy.deepcopy(old)
        self._nodes = {before.name: after for before, after in zip(old.nodes, self._graph.nodes, strict=True)}
        held = [str(node.target) for node in old.nodes if node.op in ("get_attr", "call_module")]
        self._held: dict[str, Any] = {name: attrgetter(name)(traced.graph_module) for name in held}

    def rewrite_(self, norm: str, linears: tuple[str, ...], ratio: Tensor, offset: Tensor) -> None:
        """Change a LayerNorm and the linear layers that read it; both factors of shape (C,)."""
        node = self._node(norm)
        gamma, beta = self._parameter(node, _GAMMA), self._parameter(node, _BETA)
        like = self._parameter(self._node(linears[0]), _WEIGHT) if gamma is None else gamma
        like = like if beta is None else beta
        new_gamma = (torch.ones_like(ratio) if gamma is None else _exact(gamma)) / ratio
        new_beta = (offset if beta is None else _exact(beta) + offset) / ratio
        self._set_(norm, _GAMMA, new_gamma, like if gamma is None else gamma)
        self._set_(norm, _BETA, new_beta, like)
        for linear in linears:
            weight, bias = (self._parameter(self._node(linear), index) for index in (_WEIGHT, _BIAS))
            exact = _exact(weight)
            moved = exact @ offset
            self._set_(linear, _WEIGHT, exact * ratio, weight)
            self._set_(
                linear, _BIAS, -moved if bias is None else _exact(bias) - moved, weight if bias is None else bias
            )

    def result(self) -> TracedModel:
        """Return the model with the parameters that were changed."""
        for node in list(self._graph.nodes):
            if node.op == "get_attr" and not node.users:
                self._graph.erase_node(node)
        self._graph.lint()
        names = {str(node.target) for node in self._graph.nodes if node.op in ("get_attr", "call_module")}
        held = {name: value for name, value in self._held.items() if name in names}
        graph_module = fx.GraphModule(held, self._graph)
        graph_module.train(self._traced.graph_module.training)
        edges = {key: replace(edge, node=self._nodes[edge.node].name) for key, edge in self._traced.edges.items()}
        return replace(self._traced, graph_module=graph_module, edges=edges)

    def _node(self, site: str) -> fx.Node:
        node: fx.Node = self._nodes[self._traced.edges[site, "input"].node]
        return node

    def _parameter(self, node: fx.Node, index: int) -> Any:
        """Return the tensor at an argument, or None where the layer has none."""
        argument = node.args[index] if index < len(node.args) else None
        return self._held[str(argument.target)] if isinstance(argument, fx.Node) else None

    def _set_(self, site: str, index: int, value: Tensor, like: Tensor) -> None:
        """Give a site a parameter of its own, of the type of ``like`` and on its device."""
        node = self._node(site)
        value = value.to(like.dtype)
        if not torch.isfinite(value).all():
            raise CalibrationError(f"{site}: reparameterized, its parameters overflow {like.dtype}")
        # Without dots: beside the old parameters, and not among the modules' own.
        name = f"_reparameterized_{node.name}_{index}"
        self._held[name] = nn.Parameter(value.to(like.device), requires_grad=like.requires_grad)
        with self._graph.inserting_before(node):
            parameter = self._graph.get_attr(name)
        missing = [None] * (index + 1 - len(node.args))
        arguments = [*node.args, *missing]
        arguments[index] = parameter
        node.args = tuple(arguments)
