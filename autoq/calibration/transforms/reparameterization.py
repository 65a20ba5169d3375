"""RepQ-ViT's LayerNorm scale reparameterization: one scale for channels that each want their own.

Li et al., "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers", ICCV 2023,
section 3.2. The LayerNorm and the linear layers after it are changed so that full precision stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoq.calibration.capture import run_observed
from autoq.calibration.transforms.rewriting import BETA, BIAS, GAMMA, WEIGHT, ParameterRewriter, exact, is_constant
from autoq.errors import CalibrationError
from autoq.graph.consumers import linears_by_norm
from autoq.graph.insert import QuantizedModel
from autoq.graph.nodes import WEIGHT_LAYERS
from autoq.graph.trace import TracedModel
from autoq.quantizers._affine import choose_affine_qparams
from autoq.validation import did_you_mean


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
    rewriter = ParameterRewriter(traced)
    for norm, chosen in factors.items():
        if norm not in rewritable:
            raise CalibrationError(_refusal(traced, norm))
        channels = traced.sites_by_name[norm].operand("input").shape[-1]
        _check_factors(norm, chosen, channels)
        layers = [traced.edges[linear, "input"].node for linear in rewritable[norm]]
        _rescale_(rewriter, traced.edges[norm, "input"].node, layers, chosen)
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
        return all(parameter is None or is_constant(parameter) for parameter in parameters)

    return {
        norm: linears
        for norm, linears in linears_by_norm(traced).items()
        if are_constant(norm, GAMMA, BETA) and all(are_constant(linear, WEIGHT, BIAS) for linear in linears)
    }


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


def _rescale_(rewriter: ParameterRewriter, norm: str, linears: Sequence[str], factors: ChannelFactors) -> None:
    """Change the nodes of a LayerNorm and of the linear layers that read it."""
    ratio, offset = exact(factors.ratio).flatten(), exact(factors.offset).flatten()  # (C,)
    gamma, beta = rewriter.value(norm, GAMMA), rewriter.value(norm, BETA)
    rewriter.write_(norm, GAMMA, (torch.ones_like(ratio) if gamma is None else gamma) / ratio, linears[0])
    rewriter.write_(norm, BETA, (offset if beta is None else beta + offset) / ratio, linears[0])
    for linear in linears:
        weight, bias = rewriter.value(linear, WEIGHT), rewriter.value(linear, BIAS)
        assert weight is not None  # noqa: S101 - of every linear layer
        moved = weight @ offset
        rewriter.write_(linear, WEIGHT, weight * ratio)
        rewriter.write_(linear, BIAS, -moved if bias is None else bias - moved)
