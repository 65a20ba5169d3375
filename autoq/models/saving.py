"""Writing a model in timm's hub format."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from autoq.errors import ModelError
from autoq.files import atomic_path, write_text

_SOURCE_KEYS = frozenset({"architecture", "file", "hf_hub_filename", "hf_hub_id", "source", "state_dict", "tag", "url"})


def save_model(
    module: nn.Module,
    path: str | os.PathLike[str],
    *,
    model_args: Mapping[str, Any] | None = None,
    data_config: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
) -> None:
    """Write ``config.json`` and ``model.safetensors``, so that ``local-dir:PATH`` loads the model again.

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
    if label_names is not None:
        pretrained_config["label_names"] = list(label_names)
    document = {
        "architecture": own_config["architecture"],
        "num_classes": num_classes,
        "num_features": module.num_features,
        "model_args": dict(getattr(module, "_model_args", {}) if model_args is None else model_args),
        "pretrained_cfg": pretrained_config,
    }
    try:
        text = json.dumps(document, indent=2) + "\n"
    except TypeError as error:
        raise ModelError(f"arguments of {own_config['architecture']!r} cannot be saved: {error}") from error
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    # Clones, because safetensors refuses tensors that share memory.
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in module.state_dict().items()}
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    write_text(folder / "config.json", text)
