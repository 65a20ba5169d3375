"""Write a model in timm's hub format, with an additional key that names the modules replaced by ReLU.

timm ignores the key ``autoq``: without :func:`autoq.models.load_model` such a folder loads with the activations that
the architecture has, and gives other outputs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from autoq.errors import ModelError
from autoq.files import atomic_path, write_text
from autoq.models.data_config import normalisation

_SOURCE_KEYS = frozenset({"architecture", "file", "hf_hub_filename", "hf_hub_id", "source", "state_dict", "tag", "url"})

OWN_KEY = "autoq"
"""Key of ``config.json`` whose content timm does not know."""
_LONGEST_SHOWN = 80
_RELU_KEY = "relu"
_REPLACED = "_autoq_relu"
"""Attribute of a module that holds the paths of what was replaced in it, as timm's ``_model_args`` holds arguments."""


def save_model(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    model_args: Mapping[str, Any] | None = None,
    data_config: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
) -> None:
    """Write ``config.json`` and ``model.safetensors``, so that ``local-dir:PATH`` loads the model again.

    Modules that :func:`use_relu_` has replaced are named in ``config.json`` as ``"autoq": {"relu": [paths]}``.

    Args:
        module: a model that timm created, possibly trained or changed in its weights since.
        path: the folder; created if it does not exist.
        model_args: what timm was given to create the model; None: what timm remembers of it.
        data_config: ``input_size``, ``mean``, ``std``, ``crop_pct`` and so on, where they differ from the model's own.
        label_names: names of the outputs; None: those the model came with.

    Raises:
        ModelError: the module is not timm's, or an argument cannot be written as JSON.
    """
    from safetensors.torch import save_file

    own_config = getattr(module, "pretrained_cfg", None)
    if not own_config:
        raise ModelError(f"{type(module).__name__} was not created by timm: its hub format cannot describe it")
    num_classes = module.num_classes
    pretrained_config = {key: value for key, value in dict(own_config).items() if key not in _SOURCE_KEYS}
    # Weights are written as timm holds them, whatever format they once came in.
    pretrained_config |= {"custom_load": False, "num_classes": num_classes} | dict(data_config or {})
    channels = int(next(iter(pretrained_config.get("input_size") or (3,))))
    for key in ("mean", "std"):  # timm remembers those of the pretrained weights, which are of three channels
        if pretrained_config.get(key) is not None:
            name = str(own_config["architecture"])
            pretrained_config[key] = normalisation(name, key, pretrained_config[key], channels)
    if label_names is not None:
        pretrained_config["label_names"] = list(label_names)
    document: dict[str, Any] = {
        "architecture": own_config["architecture"],
        "num_classes": num_classes,
        "num_features": module.num_features,
        "model_args": dict(getattr(module, "_model_args", {}) if model_args is None else model_args),
        "pretrained_cfg": pretrained_config,
    }
    if replaced := replaced_by_relu(module):
        document[OWN_KEY] = {_RELU_KEY: list(replaced)}
    try:
        text = json.dumps(document, indent=2) + "\n"
    except TypeError as error:
        raise ModelError(f"arguments of {own_config['architecture']!r} cannot be saved: {error}") from error
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(detached_state(module), temporary, metadata={"format": "pt"})
    write_text(folder / "config.json", text)


def detached_state(module: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a module's state on the CPU; safetensors refuses tensors that share memory."""
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}


def relu_paths(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the paths of the modules that a ``config.json`` replaces by ReLU; mostly none.

    Raises:
        ModelError: the key is not of the form ``"autoq": {"relu": [paths]}``.
    """
    own = config.get(OWN_KEY, {})
    # Another key may mean another change of the model: to pass over it would be to load another model.
    paths = own.get(_RELU_KEY, []) if isinstance(own, Mapping) and set(own) <= {_RELU_KEY} else None
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        text = json.dumps(own)
        shown = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
        raise ModelError(f"{OWN_KEY!r} is {shown}, but must be {{'relu': [module paths]}}")
    return tuple(paths)


def use_relu_(module: nn.Module, paths: Iterable[str]) -> None:
    """Replace submodules by ``nn.ReLU()``; :func:`save_model` will name them.

    Args:
        module: changed.
        paths: of submodules without parameters and buffers.

    Raises:
        ModelError: there is no such submodule, or it has weights; nothing is changed.
    """
    paths = tuple(paths)
    for path in paths:
        try:
            found = module.get_submodule(path)
        except AttributeError as error:
            raise ModelError(f"there is no module {path!r} that ReLU could replace") from error
        if found is module or found.state_dict():
            raise ModelError(f"the module {path!r} has weights: ReLU cannot replace it")
    for path in paths:
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, nn.ReLU().train(module.training))
    setattr(module, _REPLACED, tuple(sorted({*replaced_by_relu(module), *paths})))


def replaced_by_relu(module: nn.Module) -> tuple[str, ...]:
    """Return the paths of the submodules that :func:`use_relu_` has replaced, sorted."""
    return tuple(getattr(module, _REPLACED, ()))
