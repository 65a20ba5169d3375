"""Choose the centres of attention keys on calibration images, or none where moving them does not help."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from autoq.calibration.capture import run_observed
from autoq.calibration.transforms.centring.centre import find_keys
from autoq.calibration.transforms.rewriting import BIAS, WEIGHT, ParameterRewriter
from autoq.calibration.transforms.rotation.spaces import LayerChannels
from autoq.calibration.transforms.sampled_errors import WindowSample, quantized_to_4_bits, relative_score_error
from autoq.errors import CalibrationError
from autoq.graph.insert import OperandKey, QuantizedModel
from autoq.graph.trace import TracedModel


def choose_centres(
    model: QuantizedModel, batches: Iterable[Tensor], progress: Callable[[int], None] | None = None
) -> dict[str, Tensor]:
    """Centre keys at their mean over images and tokens, where scores then lose less.

    What is compared is the error of scores, but for what is the same along a row, with queries and keys of a few images
    at 4 bits. One full-precision pass over all images.

    Args:
        model: its slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device.
        progress: called with the number of images of each finished batch.

    Returns:
        Centres by product, as ``centre_keys`` takes them; products that are better left alone are not in it.

    Raises:
        CalibrationError: there is no image, or an operand has NaN or infinite values.
    """
    traced = model.traced
    sites = {edge.node: site for (site, _), edge in traced.edges.items()}
    keys = {name: layer for name, layer in find_keys(traced).items() if layer.node in sites}
    observed = {name: _Keys(traced, name, sites[layer.node]) for name, layer in keys.items()}
    slots: dict[OperandKey, list[nn.Module]] = {}
    for each in observed.values():
        for key, module in each.modules.items():
            slots.setdefault(key, []).append(module)
    if not slots:
        return {}
    run_observed(model, {key: nn.Sequential(*modules) for key, modules in slots.items()}, batches, progress)
    rewriter = ParameterRewriter(traced)
    return {name: each.mean(rewriter, keys[name]) for name, each in observed.items() if each.are_better_centred()}


class _MeanInput(nn.Module):
    """Sits in the slot of a layer's input, passes it on and averages its tokens."""

    def __init__(self, key: OperandKey, weight_ndim: int) -> None:
        super().__init__()
        self._key, self._axis = key, 1 - weight_ndim
        self._total: Tensor | None = None
        self._count = 0

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.movedim(self._axis, -1).flatten(0, -2)  # (tokens, channels)
        total = tokens.sum(0, dtype=torch.float64)
        self._total = total if self._total is None else self._total + total
        self._count += len(tokens)
        return x

    def value(self) -> Tensor:
        """Return the mean, of shape (channels,), in double precision on the CPU."""
        if self._total is None:
            raise CalibrationError("there are no calibration images")
        if not torch.isfinite(self._total).all():
            site, operand = self._key
            raise CalibrationError(f"{site}:{operand} has NaN or infinite values in full precision: check the weights")
        return self._total.cpu() / self._count


class _Keys:
    """Queries and keys of a product.

    Attributes:
        modules: by the slots that they sit in.
    """

    def __init__(self, traced: TracedModel, product: str, layer: str) -> None:
        site = traced.sites_by_name[product]
        self._product = product
        self._axes = {name: site.operand(name).layout.head_axis for name in ("lhs", "rhs")}
        self._input = _MeanInput((layer, "input"), traced.weight(layer).ndim)
        self._samples = {name: WindowSample() for name in self._axes}
        samples = {(product, name): sample for name, sample in self._samples.items()}
        self.modules: dict[OperandKey, nn.Module] = {(layer, "input"): self._input, **samples}

    def mean(self, rewriter: ParameterRewriter, layer: LayerChannels) -> Tensor:
        """Return what the layer makes of its mean input, of shape (heads, width), in single precision."""
        weight, bias = rewriter.value(layer.node, WEIGHT), rewriter.value(layer.node, BIAS)
        assert weight is not None  # noqa: S101 - of every layer that was found
        centre = (weight.flatten(2).sum(2) if weight.ndim > 2 else weight) @ self._input.value()
        return (centre if bias is None else centre + bias)[layer.numbers].float()

    def are_better_centred(self) -> bool:
        """Tell whether scores have less error with keys around zero."""
        queries, keys = (self._samples[name].values((self._product, name)) for name in ("lhs", "rhs"))
        windows = min(len(queries), len(keys))
        queries, keys = queries[:windows], keys[:windows]  # (windows, ..., width, tokens)
        return self._error(queries, keys - keys.mean((0, -1), keepdim=True)) < self._error(queries, keys)

    def _error(self, queries: Tensor, keys: Tensor) -> float:
        heads = {name: () if axis is None else (axis,) for name, axis in self._axes.items()}
        rounded = quantized_to_4_bits(queries, heads["lhs"]) @ quantized_to_4_bits(keys, heads["rhs"])
        return relative_score_error(rounded, queries @ keys)
