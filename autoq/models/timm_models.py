"""Models of timm: by name, from the hub, from a folder in its hub format, or created by the user."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoq.errors import ModelError, ModelNotFoundError
from autoq.files import sha256_hex
from autoq.models.data_config import check_forward, normalisation
from autoq.models.hub import is_network_failure, quick_hub, quiet
from autoq.models.loaded import EvaluationTransform, LoadedModel, input_size_of, weights_sha256
from autoq.models.saving import relu_paths, replaced_by_relu, use_relu_
from autoq.models.weight_files import WEIGHT_SUFFIXES, check_weight_files
from autoq.validation import did_you_mean

BUNDLED_MODEL = "vit_digits"
"""Name of the model that needs no download."""

_BUNDLED_FOLDER = Path(__file__).parent / BUNDLED_MODEL
_LOCAL = "local-dir:"
IMAGE_MODES = {1: "L", 3: "RGB"}
_LONGEST_REASON = 200


def load_timm_model(
    name: str,
    pretrained: bool = True,
    num_classes: int | None = None,
    seed: int = 0,
    config: dict[str, Any] | None = None,
) -> LoadedModel:
    """Load a model of timm; see ``load_model`` for the arguments.

    Args:
        name: of the model.
        pretrained: False for random weights.
        num_classes: number of outputs, if not the model's own.
        seed: of random weights.
        config: ``config.json`` of a model on the hub, if it has been read already.

    Raises:
        ModelError: there is no such model, its weights cannot be downloaded or do not fit, or its ``config.json`` names
            modules that it does not have.
    """
    timm = import_timm()
    timm.layers.set_fused_attn(False)
    source = f"{_LOCAL}{_BUNDLED_FOLDER}" if name == BUNDLED_MODEL else name
    if source.startswith(_LOCAL):
        folder = Path(source.removeprefix(_LOCAL)).expanduser()
        config = _check_folder(name, folder, pretrained)
        source = f"{_LOCAL}{folder}"
    elif ":" not in source:
        _check_timm_name(name, pretrained)
    elif config is None:
        config = hub_config(name)
    needs_hub = not source.startswith(_LOCAL) and (pretrained or ":" in source)
    with quiet(), quick_hub() if needs_hub else nullcontext(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            module = timm.create_model(source, pretrained=pretrained, num_classes=num_classes)
        except Exception as error:  # timm, the hub client and torch each have their own
            raise explain_failure(name, error) from error
    try:
        use_relu_(module, relu_paths(config or {}))
    except ModelError as error:
        raise ModelError(f"model {name!r}: {error}; correct its config.json") from error
    transform, input_size = timm_input(name, module.eval())
    if config is not None:
        check_forward(name, module, input_size)
    return LoadedModel(
        name=name,
        module=module,
        transform=transform,
        input_size=input_size,
        num_classes=module.num_classes,
        label_names=timm_label_names(module),
        weights_sha256=model_sha256(module),
    )


def timm_input(name: str, module: nn.Module) -> tuple[EvaluationTransform, tuple[int, int, int]]:
    """Return the transform from images to the input of a timm model, and the shape (C, H, W) of one input.

    Args:
        name: for the message.
        module: with a ``pretrained_cfg``.

    Raises:
        ModelError: the model takes another number of channels than images have, or its data configuration is wrong.
    """
    timm = import_timm()
    try:
        data_config = timm.data.resolve_model_data_config(module)
        channels, height, width = (int(side) for side in data_config["input_size"])
    except Exception as error:  # whatever a wrong entry leads to
        raise explain_failure(name, error) from error
    if channels not in IMAGE_MODES:
        raise ModelError(f"model {name!r} takes {channels} channels: images have 1 or 3, choose another model")
    data_config |= {key: normalisation(name, key, data_config[key], channels) for key in ("mean", "std")}
    try:
        pipeline = timm.data.create_transform(**data_config, is_training=False)
    except Exception as error:  # whatever a wrong entry leads to
        raise explain_failure(name, error) from error
    transform = EvaluationTransform(IMAGE_MODES[channels], pipeline, data_config)
    found = input_size_of(transform, f"model {name!r}")
    if found != (channels, height, width):
        raise ModelError(
            f"model {name!r}: an image becomes {found}, but input_size in its config.json is "
            f"{(channels, height, width)}: correct input_size, crop_mode or crop_pct."
        )
    return transform, (channels, height, width)


def model_sha256(module: Any) -> str:
    """Hash the weights, and the paths of modules that are ReLUs where the architecture has something else.

    The same weights with another activation are another model: recipes and banks of one must not pass for the other's.
    An ``act_layer`` among timm's arguments is in no hash; there the trained weights alone tell the models apart.
    """
    sha256, paths = weights_sha256(module), replaced_by_relu(module)
    return sha256_hex(f"{each}\n".encode() for each in (sha256, *paths)) if paths else sha256


def hub_config(name: str) -> dict[str, Any]:
    """Read ``config.json`` of ``hf-hub:OWNER/NAME`` or ``hf-hub:OWNER/NAME@REVISION``, from the hub or the local cache.

    Raises:
        ModelError: it cannot be downloaded, or is not a JSON object.
    """
    from huggingface_hub import hf_hub_download

    identifier, _, revision = name.partition(":")[2].partition("@")
    with quiet(), quick_hub():
        try:
            path = Path(hf_hub_download(identifier, "config.json", revision=revision or None))
            document = json.loads(path.read_text(encoding="utf-8"))
        except Exception as error:  # the hub client has a dozen
            raise explain_failure(name, error) from error
    if not isinstance(document, dict):
        raise ModelError(f"model {name!r}: its config.json is not a JSON object; choose another model")
    return document


def _check_folder(name: str, folder: Path, pretrained: bool) -> dict[str, Any]:
    """Check a folder for what timm would fail on, and return its ``config.json``."""
    timm = import_timm()
    if not folder.is_dir():
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        hint = did_you_mean(folder.name, siblings) or " Give a folder that holds config.json and model.safetensors."
        raise ModelNotFoundError(f"model {name!r}: there is no folder {str(folder)!r}.{hint}")
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"model {name!r}: {str(folder)!r} has no config.json, so it is not in timm's hub format")
    document = _read_config(name, config)
    architecture = document.get("architecture") if isinstance(document, dict) else None
    if not isinstance(architecture, str):
        raise ModelError(f"model {name!r}: {str(config)!r} has no 'architecture': give it a timm name")
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models())
        raise ModelError(
            f"model {name!r}: {str(config)!r} names an architecture unknown to timm, {architecture!r}.{hint}"
        )
    if pretrained and not any(entry.name.endswith(WEIGHT_SUFFIXES) for entry in folder.iterdir()):
        raise ModelError(
            f"model {name!r}: {str(folder)!r} has no weights (model.safetensors): add them, or use --no-pretrained"
        )
    if pretrained:
        check_weight_files(name, folder)
    assert isinstance(document, dict)  # noqa: S101 - it has an architecture
    return document


def _read_config(name: str, path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"model {name!r}: cannot read {str(path)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"model {name!r}: {str(path)!r} is not UTF-8: save it as UTF-8.") from error
    if text.startswith("\ufeff"):
        raise ModelError(
            f"model {name!r}: {str(path)!r} begins with a byte order mark, which timm does not read: save it without."
        )
    try:
        return json.loads(text)
    except ValueError as error:
        raise ModelError(f"model {name!r}: {str(path)!r} is not JSON: {error}; correct it.") from error


def _check_timm_name(name: str, pretrained: bool) -> None:
    timm = import_timm()
    if "/" in name or "\\" in name:
        raise ModelError(f"unknown model {name!r}: write 'local-dir:{name}' for a folder, 'hf-hub:{name}' for the hub")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, [*timm.list_models(), BUNDLED_MODEL])
        raise ModelNotFoundError(f"unknown model {name!r}: give a timm name, local-dir:PATH or {BUNDLED_MODEL}.{hint}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if pretrained and not tagged:
        raise ModelError(f"timm has no weights for {name!r}: use --no-pretrained for random ones")
    if tag and name not in tagged:
        hint = did_you_mean(name, tagged)
        raise ModelError(f"model {name!r}: timm has no weights {tag!r} for {architecture!r}.{hint}")


def explain_failure(name: str, error: Exception) -> ModelError:
    """Explain an exception of timm, transformers, torch or the hub client to a user."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if is_network_failure(error):
        remedy = "give local-dir:PATH, a folder that has it" + ("" if ":" in name else ", or --no-pretrained")
        return ModelError(f"model {name!r} cannot be downloaded: the server cannot be reached; {remedy}")
    if "loading state_dict" in lines[0]:
        reason = _shorten(lines[1] if len(lines) > 1 else lines[0])
        return ModelError(
            f"weights of {name!r} do not fit its architecture: {reason}; correct config.json or the weights"
        )
    remedy = "check its config.json and its weights file" if name.startswith(_LOCAL) else "check the name"
    return ModelError(f"model {name!r} cannot be loaded: {_shorten(lines[0])}; {remedy}")


def _shorten(text: str) -> str:
    return text.rstrip(".") if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def import_timm() -> Any:
    """Import timm: late, because it takes seconds, and untyped, as most of it is."""
    import timm

    return timm


def timm_label_names(module: Any) -> tuple[str, ...] | None:
    """Return the names in a model's configuration, or those of the ImageNet subset that has as many classes."""
    timm = import_timm()
    names = module.pretrained_cfg.get("label_names")
    if isinstance(names, dict):
        names = [names.get(index, names.get(str(index))) for index in range(len(names))]
    if not names:
        subset = timm.data.infer_imagenet_subset(module)
        names = timm.data.ImageNetInfo(subset).label_names() if subset else []
    if names and len(names) != module.num_classes == module.pretrained_cfg.get("num_classes"):
        raise ModelError(
            f"the model has {module.num_classes} outputs, but label_names in its config.json has {len(names)} names: "
            "give one for each output."
        )
    return tuple(map(str, names)) if names and len(names) == module.num_classes else None
