"""A model with ReLU where it had GELU, and trained MLPs, as a folder that loads like any other model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoq.errors import ModelError
from autoq.models.hub import quiet
from autoq.models.loaded import LoadedModel
from autoq.models.saving import save_model

_TOLERANCE = 1e-4
"""Greatest difference of an output from the expected one, as a fraction of the largest: rounding is far below it."""


def save_relu_variant(
    loaded: LoadedModel,
    parameters: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    images: Tensor,
    expected: Tensor,
) -> None:
    """Write ``loaded`` with ReLU as its activation and other parameters in timm's hub format.

    Nothing is written unless the model does what it should.

    Args:
        loaded: left as it is.
        parameters: by their names in the model; what is not named stays.
        path: the folder, which ``local-dir:PATH`` then loads; created if it does not exist.
        images: of shape (N, C, H, W), to try the model on; a few suffice.
        expected: what it should return for them, of shape (N, classes).

    Raises:
        ModelError: timm cannot build this architecture with ReLU, it has no such parameters, or the outputs differ:
            the architecture has GELUs that ``parameters`` were not made for, or the other way round.
        OSError: the folder cannot be written.
    """
    module, arguments = _with_relu(loaded)
    state = loaded.module.state_dict()
    for name, value in parameters.items():
        if name not in state or state[name].shape != value.shape:
            raise ModelError(f"{loaded.name!r} has no parameter {name!r} of shape {tuple(value.shape)}: {_REMEDY}")
    module.load_state_dict(state | dict(parameters))
    module.to(images.device).eval()
    with torch.no_grad():
        difference = (module(images) - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    if not difference <= _TOLERANCE:
        raise ModelError(
            f"{loaded.name!r} with act_layer 'relu' is not the reconstructed model: outputs differ by "
            f"{100 * float(difference):.2g} %; {_REMEDY}"
        )
    save_model(module, path, model_args=arguments)


_REMEDY = "it cannot be saved as a model of timm"


def _with_relu(loaded: LoadedModel) -> tuple[nn.Module, dict[str, Any]]:
    """A model of the same architecture with ReLU, in evaluation mode, and what timm was given to create it."""
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
