"""Models of the user's own: given as objects, or made by a function that a name stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autoq.errors import ArgumentTypeError, ModelError
from autoq.models.loaded import IN_MEMORY, LoadedModel, Preprocess, input_size_of, make_transform
from autoq.models.timm_models import model_sha256, timm_input, timm_label_names
from autoq.python_names import call_python_name

Input = Callable[[Any], Any] | Tensor
"""What tells how a model is fed: a function that makes its input of an image, or an example of its input."""


def load_python_model(name: str) -> LoadedModel:
    """Load the model that a function of the user's returns.

    Args:
        name: ``python:package.module:function``. The function takes nothing and returns a module in evaluation mode; or
            the module and how it is fed: a function from a PIL image to a tensor (C, H, W) (or an image processor of
            transformers), or an example of its input, of shape (N, C, H, W), if the images are tensors, too. Models of
            timm know how they are fed.

    Raises:
        ModelError: there is no such function, or it returns something else.
    """
    made = call_python_name(name, ModelError)
    module, fed = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module) or not (fed is None or isinstance(fed, Tensor) or callable(fed)):
        raise ModelError(
            f"{name!r} returned {_kind(made)}: return a torch.nn.Module, or a module and how it is fed, which is a "
            "function from a PIL image to a tensor or an example of its input"
        )
    example, preprocess = (fed, None) if isinstance(fed, Tensor) else (None, fed)
    loaded = describe_module(module, preprocess=preprocess, example_input=example, name=name)
    return replace(loaded, name=name)


def describe_module(
    module: nn.Module,
    *,
    preprocess: Preprocess | None = None,
    example_input: Tensor | None = None,
    label_names: Sequence[str] | None = None,
    name: str | None = None,
) -> LoadedModel:
    """Describe a model that was given as an object.

    Nothing of the module is changed. Modules that timm created say how they are fed and what their classes are called;
    those of transformers say the latter.

    Args:
        module: in evaluation mode.
        preprocess: from an image (``PIL.Image.Image``) to a tensor (C, H, W), or an image processor of transformers.
        example_input: of shape (N, ...), if ``preprocess`` is not given; its first axis may have any length.
        label_names: of the outputs.
        name: how messages call it.

    Raises:
        ArgumentTypeError: it is no module.
        ModelError: it is in training mode, or the shape of its input is unknown.
    """
    kind = type(module).__name__
    if not isinstance(module, nn.Module):
        raise ArgumentTypeError(f"a model is a torch.nn.Module or a name, not {_kind(module)}")
    shown = name or kind
    if any(part.training for part in module.modules()):
        raise ModelError(f"{shown} is in training mode: call .eval() first")
    transform: Callable[[Any], Tensor] | None = None
    if preprocess is not None:
        transform = make_transform(preprocess)
        input_size = input_size_of(transform, shown)
    elif example_input is not None:
        input_size = _size_of_example(example_input)
        if _is_of_timm(module) and (known := timm_input(shown, module))[1] == input_size:
            transform = known[0]
    elif _is_of_timm(module):
        transform, input_size = timm_input(shown, module)
    else:
        raise ModelError(
            f"nobody knows how {shown} is fed: give preprocess, a function from an image to a tensor, or example_input"
        )
    return LoadedModel(
        name=f"{IN_MEMORY}{kind}",
        module=module,
        transform=transform,
        input_size=input_size,
        num_classes=_num_classes(module),
        label_names=tuple(label_names) if label_names is not None else _label_names(module),
        weights_sha256=model_sha256(module),
    )


def _kind(value: object) -> str:
    return f"an object of class {type(value).__name__!r}" if value is not None else "None"


def _is_of_timm(module: nn.Module) -> bool:
    return bool(getattr(module, "pretrained_cfg", None)) and hasattr(module, "num_classes")


def _size_of_example(example: object) -> tuple[int, ...]:
    if not isinstance(example, Tensor):
        raise ArgumentTypeError(f"example_input is a tensor of shape (N, ...), not {_kind(example)}")
    if example.ndim < 2 or not len(example):
        raise ModelError(f"example_input has shape {tuple(example.shape)}: give it as a batch, of shape (N, ...)")
    return tuple(example.shape[1:])


def _num_classes(module: nn.Module) -> int | None:
    for holder, attribute in ((module, "num_classes"), (getattr(module, "config", None), "num_labels")):
        found = getattr(holder, attribute, None)
        if isinstance(found, int):
            return found
    return None


def _label_names(module: nn.Module) -> tuple[str, ...] | None:
    if _is_of_timm(module):
        return timm_label_names(module)
    return transformers_label_names(getattr(module, "config", None))


def transformers_label_names(config: Any) -> tuple[str, ...] | None:
    """Return the class names in a configuration of transformers; None for its placeholders ``LABEL_0``, ``LABEL_1``."""
    names = getattr(config, "id2label", None)
    if not isinstance(names, dict) or not names:
        return None
    listed = tuple(str(names.get(index, "")) for index in range(len(names)))
    return None if all(name == f"LABEL_{index}" for index, name in enumerate(listed)) or "" in listed else listed


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the floating type of a model's input: that of its first floating parameter, else float32."""
    return next((value.dtype for value in module.parameters() if value.is_floating_point()), torch.float32)
