"""Fold the centre of attention keys into the layer that writes them: full precision stays what it was.

The scores of a query with all keys go to one softmax. If the same vector is taken away from all keys, the scores change
by the same number, and their softmax not at all: a constant one costs nothing, as the bias of the layer takes it up.
SageAttention (Zhang et al., ICLR 2025, arXiv:2410.02367, section 4.2) takes away the mean of each image's keys at run
time.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from autoq.calibration.transforms.centring.softmax_rows import SoftmaxRowProbe
from autoq.calibration.transforms.rewriting import BIAS, WEIGHT, ParameterRewriter, exact
from autoq.calibration.transforms.rotation.find import find_spaces
from autoq.calibration.transforms.rotation.spaces import LayerChannels
from autoq.errors import CalibrationError
from autoq.graph.trace import TracedModel
from autoq.validation import did_you_mean


def find_keys(traced: TracedModel) -> dict[str, LayerChannels]:
    """Find attention keys that can be moved.

    They come from a layer by moves and multiplications by numbers alone, not divided by their norms (cosine attention),
    and their scores go to softmaxes along whole rows.

    Args:
        traced: any model, rotated or not. It is run twice on one image of zeros.

    Returns:
        The outputs of layers that keys are, by the site of the product of queries and keys, in execution order.
    """
    spaces = [space for space in find_spaces(traced).rotatable.values() if space.kind == "heads" and not space.readers]
    keys = {space.name: space.writers[-1] for space in spaces if not space.writers[-1].is_scaled}
    if not keys:
        return {}
    probe = SoftmaxRowProbe(traced.graph_module)
    probe.run_on_zeros()
    return {name: layer for name, layer in keys.items() if traced.edges[name, "lhs"].node in probe.invariant}


def centre_keys(traced: TracedModel, centres: Mapping[str, Tensor]) -> TracedModel:
    """Take a vector away from all keys of each head: b' = b − centre, of the layer that writes them.

    Args:
        traced: left as it is; the new model shares all its other parameters.
        centres: by the site of the product of queries and keys, of shape (heads, width) in the order of the layer's
            outputs.

    Returns:
        A model with the same sites and operands, whose output differs by rounding.

    Raises:
        CalibrationError: names a site whose keys cannot be moved, or whose centres do not fit.

    >>> from autoq.graph.trace import trace
    >>> from autoq.models import load_model
    >>> loaded = load_model("vit_digits")
    >>> x = torch.randn(2, *loaded.input_size)
    >>> model = trace(loaded.module, x)
    >>> keys = find_keys(model)
    >>> moved = centre_keys(model, {name: torch.ones(layer.numbers.shape) for name, layer in keys.items()})
    >>> torch.allclose(moved.graph_module(x), model.graph_module(x), atol=1e-4)
    True
    """
    found = find_keys(traced) if centres else {}
    rewriter = ParameterRewriter(traced)
    for name, centre in centres.items():
        if name not in found:
            raise CalibrationError(f"keys of {name!r} cannot be centred: leave it out.{did_you_mean(name, found)}")
        layer = found[name]
        if centre.shape != layer.numbers.shape:
            raise CalibrationError(
                f"keys of {name!r} are {tuple(layer.numbers.shape)} channels, but centres {tuple(centre.shape)}"
            )
        if not torch.isfinite(centre).all():
            raise CalibrationError(f"centres of {name!r} have NaN or infinite entries")
        weight, bias = rewriter.value(layer.node, WEIGHT), rewriter.value(layer.node, BIAS)
        assert weight is not None  # noqa: S101 - of every layer that was found
        moved = torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias.clone()
        moved[layer.numbers.flatten()] -= exact(centre).flatten()
        rewriter.write_(layer.node, BIAS, moved)
    return rewriter.result()
