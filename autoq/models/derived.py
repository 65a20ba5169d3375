"""Models that are others with ReLU in some modules and other weights, in a folder that names the other."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from autoq.errors import ModelError
from autoq.files import atomic_path, write_text
from autoq.models.loaded import IN_MEMORY, LoadedModel
from autoq.models.saving import OWN_KEY, detached_state, relu_paths, replaced_by_relu, use_relu_
from autoq.models.timm_models import explain_failure, model_sha256

BASE_KEY = "base"
"""Key beside ``relu`` in ``config.json``: the name that loads the model which this one was made of."""

_LOCAL = "local-dir:"


def save_derived(loaded: LoadedModel, module: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write ``config.json`` and ``model.safetensors``, so that ``local-dir:PATH`` loads a model that is not of timm.

    Args:
        loaded: the model that ``module`` was made of; it has to be there when the folder is loaded.
        module: of the same architecture, but for what ``use_relu_`` has replaced.
        path: the folder; created if it does not exist.

    Raises:
        ModelError: the model was given as an object, so that nothing loads it again.
    """
    from safetensors.torch import save_file

    if loaded.name.startswith(IN_MEMORY):
        raise ModelError(
            f"a model of class {loaded.name.removeprefix(IN_MEMORY)!r} that was given as an object cannot be saved: "
            "give it as python:package.module:function, or leave GELU as it is (--no-mlp)"
        )
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(detached_state(module), temporary, metadata={"format": "pt"})
    own = {BASE_KEY: loaded.name, "relu": list(replaced_by_relu(module))}
    write_text(folder / "config.json", json.dumps({OWN_KEY: own}, indent=2) + "\n")


def derived_config(name: str) -> dict[str, Any] | None:
    """Return the ``config.json`` of ``local-dir:PATH`` if :func:`save_derived` wrote it; None for anything else."""
    if not name.startswith(_LOCAL):
        return None
    try:
        text = (Path(name.removeprefix(_LOCAL)).expanduser() / "config.json").read_text(encoding="utf-8")
        config = json.loads(text)
    except (OSError, ValueError):  # which the loader of timm's folders tells
        return None
    own = config.get(OWN_KEY) if isinstance(config, dict) else None
    return config if isinstance(own, dict) and BASE_KEY in own else None


def replaced_in(base: LoadedModel, name: str, config: dict[str, Any], pretrained: bool) -> LoadedModel:
    """Return a model with the ReLUs and, if ``pretrained``, the weights of the folder that ``name`` loads.

    Args:
        base: the model that the folder names; its module is changed.
        name: ``local-dir:PATH``.
        config: its ``config.json``.
        pretrained: whether to load the weights.

    Raises:
        ModelError: the folder does not fit the model.
    """
    from safetensors.torch import load_file

    own = {key: value for key, value in config[OWN_KEY].items() if key != BASE_KEY}
    try:
        use_relu_(base.module, relu_paths({OWN_KEY: own}))
    except ModelError as error:
        raise ModelError(f"model {name!r}: {error}; correct its config.json") from error
    if pretrained:
        try:
            state = load_file(Path(name.removeprefix(_LOCAL)).expanduser() / "model.safetensors")
            base.module.load_state_dict(state)
        except Exception as error:  # safetensors and torch each have their own
            raise explain_failure(name, error) from error
    return replace(base, name=name, weights_sha256=model_sha256(base.module))
