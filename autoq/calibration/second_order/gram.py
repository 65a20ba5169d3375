"""Gram matrices of layers' inputs: all that second-order rounding has to know of the calibration images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoq.calibration.capture import run_observed
from autoq.calibration.convolutions import Convolution, TransposedConvolution, convolution_of
from autoq.errors import CalibrationError
from autoq.graph.insert import QuantizedModel
from autoq.graph.nodes import TRANSPOSED_LAYERS, WEIGHT_LAYERS

_ELEMENTS_AT_ONCE = 1 << 24
"""Elements of unfolded inputs that are held at a time."""


@dataclass(frozen=True)
class LayerInput:
    """The tensor that a layer multiplies its weight with, as vectors; equal for layers that share it.

    Attributes:
        node: of the traced graph, which computes the tensor.
        channels: length of the vectors: input channels, times the elements of the kernel.
        convolution: geometry of a convolution; None for linear layers.
        kernel: size of a convolution's kernel.
    """

    node: str
    channels: int
    convolution: Convolution | TransposedConvolution | None = None
    kernel: tuple[int, ...] = ()

    @classmethod
    def of_site(cls, model: QuantizedModel, site: str) -> LayerInput | None:
        """Describe a site's input; None for sites that are no such layer.

        Those are products of activations, weights that are computed, and convolutions in groups, whose outputs see a
        part of the channels each.
        """
        described = model.traced.sites_by_name[site]
        if described.op not in WEIGHT_LAYERS | TRANSPOSED_LAYERS or not described.operand("weight").is_weight:
            return None
        shape, given = described.operand("weight").shape, described.operand("input").shape
        convolution = convolution_of(model, described)
        if convolution is not None and (convolution.groups != 1 or len(given) != len(shape)):
            return None
        node = model.traced.edges[site, "input"].source(model.traced.graph_module)
        channels = math.prod(shape) // shape[described.operand("weight").layout.channel_axis]
        return cls(node.name, channels, convolution, () if convolution is None else shape[2:])

    @property
    def gram_bytes(self) -> int:
        """Memory that the Gram matrix takes."""
        return 4 * self.channels**2

    def vectors(self, x: Tensor) -> Iterator[tuple[Tensor | None, Tensor]]:
        """Yield the vectors of a batch in parts, where unfolding takes much memory or vectors are mostly zeros.

        Yields:
            Which elements of the vectors are there, of shape (elements,), all others being zero; None: all channels.
            Those elements, of shape (tokens, elements).
        """
        if self.convolution is None:
            yield None, x.float().reshape(-1, self.channels)
            return
        unfolded_elements = x[:1].numel() * math.prod(self.kernel)
        for some in torch.split(x.float(), max(1, _ELEMENTS_AT_ONCE // unfolded_elements)):
            for elements, vectors in self.convolution.parts(some, self.kernel):
                yield elements, vectors.flatten(0, 1)


def gram_groups(model: QuantizedModel, sites: Iterable[str], most_bytes: int) -> list[list[str]]:
    """Divide sites, in order, into groups whose Gram matrices fit into memory together; a group has one at least.

    Args:
        model: whose sites they are; those without a :class:`LayerInput` are left out.
        sites: names.
        most_bytes: that the matrices of a group may take.
    """
    groups: list[list[str]] = []
    held: dict[LayerInput, int] = {}
    for site in sites:
        if (layer_input := LayerInput.of_site(model, site)) is None:
            continue
        added = 0 if layer_input in held else layer_input.gram_bytes
        if not groups or sum(held.values()) + added > most_bytes:
            groups.append([])
            held = {}
        held[layer_input] = layer_input.gram_bytes
        groups[-1].append(site)
    return groups


def capture_grams(
    model: QuantizedModel,
    batches: Iterable[Tensor],
    sites: Sequence[str],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Run full precision over the calibration images and add up XᵀX of the inputs X of layers.

    The inputs of a convolution are unfolded. The matrix of a transposed one is zero between elements of the kernel that
    no output sees together. Products are in float32, and so are their sums over batches; a weight has far fewer digits.
    Layers that share an input share one matrix.

    Args:
        model: its slots are emptied.
        batches: images of shape (N, C, H, W) on the model's device.
        sites: names, each with a :class:`LayerInput`.
        progress: called with the number of images of each finished batch.

    Returns:
        By site, a float32 tensor of shape (channels, channels).

    Raises:
        CalibrationError: there are no images, a site is no such layer, or an input has NaN or infinite values.
    """
    recorders: dict[LayerInput, _GramRecorder] = {}
    inputs: dict[str, LayerInput] = {}
    slots = {}
    for site in sites:
        if (layer_input := LayerInput.of_site(model, site)) is None:
            raise CalibrationError(f"{site!r} is no linear layer or convolution in one group: it has no Gram matrix")
        inputs[site] = layer_input
        if layer_input not in recorders:
            recorders[layer_input] = slots[site, "input"] = _GramRecorder(layer_input)
    run_observed(model, slots, batches, progress)
    for site, layer_input in inputs.items():
        total = recorders[layer_input].total
        if total is None:
            raise CalibrationError("there are no calibration images")
        if not bool(torch.isfinite(total).all()):
            raise CalibrationError(f"{site}:input has NaN or infinite values in full precision: check the weights")
    return {site: recorders[layer_input].total for site, layer_input in inputs.items()}  # type: ignore[misc]


class _GramRecorder(nn.Module):
    """Sits in a slot, passes its input on and adds up the products of its vectors.

    Attributes:
        total: the sum so far, of shape (channels, channels); None before the first input.
    """

    def __init__(self, layer_input: LayerInput) -> None:
        super().__init__()
        self._input = layer_input
        self.total: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Look at one batch."""
        if self.total is None:
            self.total = torch.zeros(self._input.channels, self._input.channels, device=x.device)
        for elements, vectors in self._input.vectors(x):  # (tokens, elements)
            add_product_(self.total, elements, vectors, vectors)
        return x


def add_product_(total: Tensor, elements: Tensor | None, left: Tensor, right: Tensor) -> None:
    """Add LᵀR of vectors to a matrix, in the rows and columns of the elements that they have.

    Args:
        total: of shape (channels, channels).
        elements: numbers of channels; None: all.
        left: of shape (tokens, elements).
        right: likewise.
    """
    if elements is None:
        total.addmm_(left.t(), right)
    else:
        total[elements.unsqueeze(1), elements] += left.t() @ right
