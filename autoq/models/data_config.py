"""The data configuration of a model (``pretrained_cfg`` in timm's ``config.json``), tried before it is relied on."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from autoq.errors import ModelError
from autoq.models.hub import quiet
from autoq.models.loaded import first_line

_RGB = 3


def normalisation(name: str, key: str, values: Any, channels: int) -> tuple[float, ...]:
    """Return the mean or the standard deviation of each channel; of three for a grey image the average, as timm has it.

    Args:
        name: of the model, for the message.
        key: ``mean`` or ``std``.
        values: as in the data configuration.
        channels: of an image.

    Raises:
        ModelError: there are not as many as channels, or one is not a number that can be used.

    >>> normalisation("m", "mean", [0.25, 0.5, 0.75], 1)
    (0.5,)
    """
    numbers = tuple(values) if isinstance(values, list | tuple) else (values,) * channels
    usable = all(isinstance(value, int | float) and math.isfinite(value) for value in numbers)
    if usable and channels == 1 and len(numbers) == _RGB:
        numbers = (sum(numbers) / _RGB,)
    if not usable or len(numbers) != channels or (key == "std" and not all(value > 0 for value in numbers)):
        kind = "number above 0" if key == "std" else "number"
        wanted = f"one {kind}" if channels == 1 else f"one {kind} for each of {channels} channels"
        raise ModelError(f"model {name!r}: {key} in its config.json is {list(numbers)}: give {wanted}.")
    return numbers


def check_forward(name: str, module: nn.Module, input_size: tuple[int, ...]) -> None:
    """Run a model once on a blank image of the size that its configuration names.

    Args:
        name: of the model, for the message.
        module: in evaluation mode.
        input_size: of one image, (C, H, W).

    Raises:
        ModelError: it fails.
    """
    example = next(module.parameters(), torch.zeros(()))
    blank = torch.zeros(1, *input_size, dtype=example.dtype, device=example.device)
    try:
        with quiet(), torch.inference_mode():
            module(blank)
    except Exception as error:  # whatever the model raises
        raise ModelError(
            f"model {name!r} does not run on an image of shape {input_size}, which is input_size in its config.json: "
            f"{first_line(error)}; correct input_size or model_args."
        ) from error
