"""A model with ReLU where it had GELU, and trained MLPs, as a folder that loads like any other model."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from autoq.errors import ModelError
from autoq.models.derived import save_derived
from autoq.models.hub import quiet
from autoq.models.loaded import LoadedModel
from autoq.models.saving import save_model, use_relu_

_TOLERANCE = 1e-4
"""Greatest difference of an output from the expected one, as a fraction of the largest: rounding is far below it."""


def save_relu_variant(
    loaded: LoadedModel,
    parameters: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    images: Tensor,
    expected: Any,
    activations: Sequence[str] = (),
) -> None:
    """Write ``loaded`` with ReLU in place of GELU and other parameters, so that ``local-dir:PATH`` loads it.

    If timm can create the architecture with ``act_layer="relu"`` and this is the model that was reconstructed, the
    folder is a model like any other, for everybody. If not, its ``config.json`` names the modules that ReLU replaces
    (``"autoq": {"relu": [...]}``), which :func:`autoq.models.load_model` alone understands: plain timm loads such a
    folder with GELU, without a word, and gets other outputs. Models that timm did not create are saved as such with
    the name of the original (:func:`autoq.models.derived.save_derived`).

    Nothing is written unless the model does what it should.

    Args:
        loaded: left as it is.
        parameters: by their names in the model; what is not named stays.
        path: the folder, which ``local-dir:PATH`` then loads; created if it does not exist.
        images: of shape (N, C, H, W), to try the model on; a few suffice.
        expected: what it should return for them, a tensor or several.
        activations: paths of the modules that ReLU replaced, all of them; with none, or an empty one among them, timm
            must create the model.

    Raises:
        ModelError: it has no such parameters or modules; or the outputs differ, or timm cannot build this architecture
            with ReLU, and ``activations`` are not all known.
        OSError: the folder cannot be written.
    """
    state = loaded.module.state_dict()
    for name, value in parameters.items():
        if name not in state or state[name].shape != value.shape:
            raise ModelError(f"{loaded.name!r} has no parameter {name!r} of shape {tuple(value.shape)}: {_REMEDY}")
    state |= parameters
    arguments: dict[str, Any] | None
    try:
        module, arguments = _with_relu(loaded)
        _fill_(module, state, images, expected, f"{loaded.name!r} with act_layer 'relu'")
    except ModelError:
        if not activations or not all(activations):
            raise
        module, arguments = copy.deepcopy(loaded.module), None
        try:
            use_relu_(module, activations)
        except ModelError as error:
            raise ModelError(f"{loaded.name!r}: {error}; {_REMEDY}") from error
        _fill_(module, state, images, expected, f"{loaded.name!r} with ReLU in {len(activations)} modules")
    if getattr(module, "pretrained_cfg", None):
        save_model(module, path, model_args=arguments)
    else:
        save_derived(loaded, module, path)


_REMEDY = "it cannot be saved as a model of timm"


def _fill_(module: nn.Module, state: Mapping[str, Tensor], images: Tensor, expected: Any, what: str) -> None:
    """Load a model's parameters, and check that it returns what it should."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:  # its activation has brought other parameters with it
        raise ModelError(f"{what} has other parameters than without: {_REMEDY}") from error
    module.to(images.device).eval()
    with torch.no_grad():
        pairs = zip(_floating(module(images)), _floating(expected), strict=True)
        difference = max(float((found - leaf).abs().max() / leaf.abs().max().clamp_min(1e-12)) for found, leaf in pairs)
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"{what} is not the reconstructed model: outputs differ by {100 * difference:.2g} %; {_REMEDY}"
        )


def _floating(output: Any) -> list[Tensor]:
    """Return the floating-point tensors of an output."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _with_relu(loaded: LoadedModel) -> tuple[nn.Module, dict[str, Any]]:
    """Create a model of the same architecture with ReLU, in evaluation mode; return it and timm's arguments for it."""
    import timm

    config = getattr(loaded.module, "pretrained_cfg", None)
    if not config:
        raise ModelError(f"{loaded.name!r} was not created by timm: {_REMEDY}")
    architecture = config["architecture"]
    arguments = {**getattr(loaded.module, "_model_args", {}), "num_classes": loaded.num_classes, "act_layer": "relu"}
    with quiet(), torch.random.fork_rng(devices=[]):
        try:
            module: nn.Module = timm.create_model(architecture, pretrained=False, **arguments)
        except Exception as error:  # whatever its constructor makes of an argument it does not have
            raise ModelError(
                f"timm cannot build {architecture!r} with act_layer 'relu' ({error}): {_REMEDY}"
            ) from error
    module.pretrained_cfg = config
    return module, arguments
