"""RepQ-ViT's LayerNorm scale reparameterization: one scale for channels that each want their own.

Li et al., "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers", ICCV 2023,
section 3.2. The LayerNorm and the linear layers after it are changed so that full precision stays what it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from autoq.calibration.capture import capture
from autoq.calibration.recording import OperandSample
from autoq.calibration.sequential import solve_in_order
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.solvers import solve
from autoq.calibration.transforms.rewriting import BETA, BIAS, GAMMA, WEIGHT, ParameterRewriter, exact, is_constant
from autoq.errors import CalibrationError
from autoq.graph.consumers import linears_by_norm
from autoq.graph.insert import OperandKey, QuantizedModel
from autoq.graph.nodes import WEIGHT_LAYERS
from autoq.graph.trace import TracedModel
from autoq.quantizers import BaseQuantizer, create_quantizer
from autoq.recipe import OperandConfig, SiteConfig
from autoq.validation import did_you_mean


@dataclass(frozen=True)
class ChannelFactors:
    """How a LayerNorm's output X changes: X' = (X + offset) / ratio, channel by channel.

    Attributes:
        ratio: r1 = s / s̃, positive, of shape (C,).
        offset: s ⊙ r2, r2 = z − z̃, of shape (C,).
        scale: s̃, one number.
        zero_point: z̃, a whole number.
    """

    ratio: Tensor
    offset: Tensor
    scale: Tensor
    zero_point: Tensor


def choose_factors(scale: Tensor, zero_point: Tensor) -> ChannelFactors:
    """Choose the factors with which one scale and zero point do what one for each channel would.

    With s and z, the scale and zero point of each channel, and s̃ and z̃, their means over the channels that have a
    range, round(X' / s̃) + z̃ = round(X / s) + z. RepQ-ViT's code does not round z̃ (AdaLog's does), which gives 2^b + 1
    levels; zero points are codes, and r2 takes up the difference exactly. Channels without a range of their own stay as
    they are.

    Args:
        scale: of each channel, C numbers in any shape.
        zero_point: of each channel, likewise.
    """
    scale, zero_point = scale.flatten(), zero_point.flatten()  # (C,)
    # A channel that is always zero would be blown up without end, and its neighbours' mean scale drawn towards zero.
    has_range = scale > scale.max() * torch.finfo(torch.float32).eps
    shared_scale, shared_zero_point = scale[has_range].mean(), zero_point[has_range].mean().round()
    ratio = torch.where(has_range, scale / shared_scale, torch.ones_like(scale))
    offset = torch.where(has_range, scale * (zero_point - shared_zero_point), torch.zeros_like(scale))
    return ChannelFactors(ratio, offset, shared_scale, shared_zero_point)


def rewritable_norms(traced: TracedModel) -> tuple[str, ...]:
    """List LayerNorms that :func:`reparameterize` can rewrite, without those that feed the last weight layer.

    In published vision transformers these are the ones before qkv, fc1 and Swin's reduction: all but the classifier's.
    """
    weight_layers = [site.name for site in traced.sites if site.op in WEIGHT_LAYERS]
    return tuple(norm for norm, linears in _rewritable(traced).items() if weight_layers[-1] not in linears)


def observe_factors(
    model: QuantizedModel,
    batches: Sequence[Tensor],
    norms: Mapping[str, int],
    settings: CalibrationSettings,
    sites: Mapping[str, SiteConfig] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, ChannelFactors]:
    """Choose factors from a range for each channel of what linear layers after each LayerNorm see.

    Args:
        model: its slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device.
        norms: LayerNorm sites, and the bits of the quantizers that they feed.
        settings: by ``norm_observer``, and with earlier sites as ``inputs`` says.
        sites: the recipe that earlier sites are quantized by, where they are.
        progress: called with the number of images of each finished batch.

    Raises:
        CalibrationError: a LayerNorm cannot be rewritten or has NaN or infinite values, or there is no image.
    """
    rewritable = _rewritable(model.traced)
    for norm in norms:
        if norm not in rewritable:
            raise CalibrationError(_refusal(model.traced, norm))
    by_channel = {
        linear: OperandConfig(scheme="uniform", bits=bits, granularity="channel")
        for norm, bits in norms.items()
        for linear in rewritable[norm]
    }
    settings = replace(settings, observer=settings.norm_observer)
    if settings.inputs == "quantized":
        recipe = dict(sites or {}) | {
            linear: {**(sites or {}).get(linear, {}), "input": config} for linear, config in by_channel.items()
        }
        solved = dict(solve_in_order(model, batches, recipe, settings, progress=progress))
        quantizers = {norm: solved[_widest(model.traced, rewritable[norm])]["input"] for norm in norms}
    else:
        samples = capture(model, batches, settings, progress, [(linear, "input") for linear in by_channel])
        quantizers = {}
        for norm in norms:
            operand = model.traced.sites_by_name[rewritable[norm][0]].operand("input")
            sample = _merged([samples[linear, "input"] for linear in rewritable[norm]])
            quantizers[norm] = solve(operand, by_channel[rewritable[norm][0]], sample, settings)
    parameters = {norm: quantizer.qparams() for norm, quantizer in quantizers.items()}
    return {norm: choose_factors(each["scale"], each["zero_point"]) for norm, each in parameters.items()}


def _widest(traced: TracedModel, linears: Sequence[str]) -> str:
    """Return the layer that reads most of a LayerNorm's output: queries of class attention read one token."""
    return max(linears, key=lambda linear: math.prod(traced.sites_by_name[linear].operand("input").shape))


def _merged(samples: Sequence[OperandSample]) -> OperandSample:
    """Make one sample of what several layers read of a LayerNorm's output; all have its channels last."""
    first, ndim = samples[0], samples[0].values.ndim
    if len(samples) == 1:
        return first
    values = torch.cat([sample.values.flatten(0, -2) for sample in samples])  # (tokens, C)
    lower = torch.stack([sample.lower.flatten() for sample in samples]).amin(0)
    upper = torch.stack([sample.upper.flatten() for sample in samples]).amax(0)
    shape = (1,) * (ndim - 1) + (-1,)
    return OperandSample(values.view(*(1,) * (ndim - 2), *values.shape), lower.view(shape), upper.view(shape), None)


def shared_quantizers(
    traced: TracedModel, factors: Mapping[str, ChannelFactors], sites: Mapping[str, SiteConfig]
) -> dict[OperandKey, BaseQuantizer]:
    """Make the quantizers of what reads reparameterized LayerNorms, of the scale and zero point that factors are for.

    Args:
        traced: the model, reparameterized or not.
        factors: by LayerNorm site.
        sites: a recipe; of the layers' inputs, those that it quantizes uniformly with one scale get their quantizers.
    """
    found: dict[OperandKey, BaseQuantizer] = {}
    rewritable = _rewritable(traced)
    for norm, chosen in factors.items():
        for linear in rewritable[norm]:
            config = sites.get(linear, {}).get("input")
            if config is None or (config.scheme, config.granularity, config.symmetric) != ("uniform", "tensor", False):
                continue
            operand = traced.sites_by_name[linear].operand("input")
            shape = operand.layout.parameter_shape(operand.shape, config)
            qparams = {"scale": chosen.scale.reshape(shape), "zero_point": chosen.zero_point.reshape(shape)}
            found[linear, "input"] = create_quantizer(config, operand.layout, qparams)
    return found


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
