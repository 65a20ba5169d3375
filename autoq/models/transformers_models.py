"""Models of transformers: from the hub, or from a folder that ``save_pretrained`` wrote. Needs the extra."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoq.errors import ModelError, ModelNotFoundError
from autoq.models.detector_input import is_detector, square_input
from autoq.models.hub import quick_hub, quiet
from autoq.models.loaded import LoadedModel, input_size_of, make_transform
from autoq.models.python_models import transformers_label_names
from autoq.models.timm_models import explain_failure, model_sha256
from autoq.models.weight_files import check_weight_files
from autoq.validation import did_you_mean

_DEFAULT_CLASS = "AutoModelForImageClassification"


def load_transformers_folder(name: str, folder: Path, pretrained: bool, seed: int) -> LoadedModel:
    """Load ``hf-dir:PATH``.

    Raises:
        ModelError: there is no such folder, it is not in transformers' format, or transformers is not installed.
    """
    if not folder.is_dir():
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        hint = did_you_mean(folder.name, siblings) or " Give a folder that save_pretrained wrote."
        raise ModelNotFoundError(f"model {name!r}: there is no folder {str(folder)!r}.{hint}")
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ModelError(
            f"model {name!r}: {str(folder)!r} has no config.json: give a folder that save_pretrained wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"model {name!r}: {str(path)!r} is not JSON: {error}") from error
    if isinstance(config, dict) and "architecture" in config and "model_type" not in config:
        raise ModelError(f"model {name!r} is in timm's format: write 'local-dir:{folder}'")
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"model {name!r}: {str(path)!r} has no 'model_type': give a folder that save_pretrained wrote")
    if pretrained:
        check_weight_files(name, folder)
    return _load(name, str(folder), config, pretrained, seed, local=True)


def load_transformers_repository(name: str, config: dict[str, Any], pretrained: bool, seed: int) -> LoadedModel:
    """Load ``hf-hub:OWNER/NAME`` or ``hf-hub:OWNER/NAME@REVISION``, whose ``config.json`` is known.

    Raises:
        ModelError: it is no model of transformers, cannot be downloaded, or transformers is not installed.
    """
    if "model_type" not in config:
        raise ModelError(f"model {name!r} is neither timm's nor transformers': its config.json has no 'model_type'")
    return _load(name, name.partition(":")[2], config, pretrained, seed, local=False)


def _load(name: str, source: str, config: dict[str, Any], pretrained: bool, seed: int, *, local: bool) -> LoadedModel:
    transformers = _transformers(name)
    identifier, _, revision = (source, "", "") if local else source.partition("@")
    where: dict[str, Any] = {"local_files_only": local} | ({"revision": revision} if revision else {})
    model_class = _model_class(transformers, config)
    with (
        quiet(),
        _without_bars(transformers),
        nullcontext() if local else quick_hub(),
        torch.random.fork_rng(devices=[]),
    ):
        torch.default_generator.manual_seed(seed)
        try:
            settings = transformers.AutoConfig.from_pretrained(identifier, **where)
            settings._attn_implementation = "eager"
            if pretrained:
                module = model_class.from_pretrained(identifier, config=settings, **where)
            else:
                random = model_class.from_config if hasattr(model_class, "from_config") else model_class
                module = random(settings)
            processor = transformers.AutoImageProcessor.from_pretrained(identifier, use_fast=False, **where)
        except Exception as error:  # transformers, the hub client and torch each have their own
            raise explain_failure(name, error) from error
    module.eval()
    transform: Callable[[Any], Tensor] = make_transform(processor)
    input_size = input_size_of(transform, f"model {name!r}")
    if is_detector(module):
        transform = square_input(processor, (input_size[1], input_size[2]))
    return LoadedModel(
        name=name,
        module=module,
        transform=transform,
        input_size=input_size,
        num_classes=getattr(module.config, "num_labels", None),
        label_names=transformers_label_names(module.config),
        weights_sha256=model_sha256(module),
    )


def _model_class(transformers: Any, config: dict[str, Any]) -> Any:
    """Return the class that saved the model, so that segmenters and detectors are loaded with their heads."""
    for architecture in config.get("architectures") or ():
        if hasattr(transformers, str(architecture)):
            return getattr(transformers, str(architecture))
    return getattr(transformers, _DEFAULT_CLASS)


@contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    """Keep transformers from drawing bars on standard error."""
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _transformers(name: str) -> Any:
    """Import transformers: late, because it takes seconds."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ModelError(f"{name!r} needs the package transformers: pip install 'autoq[transformers]'") from error
