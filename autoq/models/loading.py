"""Load a model by its name, ready to be traced."""

from __future__ import annotations

from pathlib import Path

from autoq.errors import ModelError, ModelNotFoundError
from autoq.models.loaded import IN_MEMORY, LoadedModel
from autoq.models.saving import OWN_KEY
from autoq.python_names import is_python_name
from autoq.validation import check_decodable


def modules_to_load(name: str) -> tuple[str, ...]:
    """List the modules that a model of this name takes long to import for, as far as the name tells.

    >>> modules_to_load("deit_tiny_patch16_224")
    ('timm',)
    """
    if is_python_name(name):  # whatever that imports
        return ()
    return ("transformers",) if name.startswith("hf-dir:") else ("timm",)


def load_model(name: str, pretrained: bool = True, num_classes: int | None = None, seed: int = 0) -> LoadedModel:
    """Load a model in evaluation mode, with attention written out so that its products can be quantized.

    Where the ``config.json`` of a folder or of the hub has ``"autoq": {"relu": [paths]}``, ReLU replaces these modules.

    Args:
        name: a timm name (``deit_tiny_patch16_224``, weights from the hub), ``hf-hub:OWNER/NAME`` (of timm or
            transformers), ``local-dir:PATH`` (a folder in timm's hub format, or one with trained ReLU MLPs that names
            the model which it was made of), ``hf-dir:PATH`` (a folder that
            transformers saved), ``python:package.module:function`` (see ``python_model``), or ``vit_digits`` or
            ``swin_shapes`` (bundled).
        pretrained: False for random weights.
        num_classes: number of outputs, if not the model's own (timm); the last layer then has random weights.
        seed: seed of random weights; the same ones come back in every process. No other random state changes.

    Raises:
        ModelError: there is no such model, its weights cannot be downloaded or do not fit, or its ``config.json`` names
            modules that it does not have.

    >>> load_model("vit_digits").input_size
    (1, 8, 8)
    """
    check_decodable(name, "model", ModelError)
    if name.startswith(IN_MEMORY):
        kind = name.removeprefix(IN_MEMORY)
        raise ModelNotFoundError(
            f"the model was given in Python, as an object of class {kind!r}: give it again, as model= or, on the "
            "command line, as --model python:package.module:function"
        )
    if is_python_name(name):
        from autoq.models.python_models import load_python_model

        if not pretrained:
            raise ModelError(f"--no-pretrained does not apply to {name!r}: its weights are what the function gives it")
        return load_python_model(name)
    from autoq.models.derived import BASE_KEY, derived_config, replaced_in

    if (derived := derived_config(name)) is not None:
        base = str(derived[OWN_KEY][BASE_KEY])
        return replaced_in(load_model(base, is_python_name(base), seed=seed), name, derived, pretrained)
    if name == "swin_shapes":
        from autoq.models.swin_shapes import load_swin_shapes

        return load_swin_shapes(pretrained, seed)
    if name.startswith("hf-dir:"):
        from autoq.models.transformers_models import load_transformers_folder

        return load_transformers_folder(name, Path(name.removeprefix("hf-dir:")).expanduser(), pretrained, seed)
    from autoq.models.timm_models import hub_config, load_timm_model

    config = hub_config(name) if name.startswith("hf-hub:") else None
    if config is not None and "architecture" not in config:
        from autoq.models.transformers_models import load_transformers_repository

        return load_transformers_repository(name, config, pretrained, seed)
    return load_timm_model(name, pretrained, num_classes, seed, config)
