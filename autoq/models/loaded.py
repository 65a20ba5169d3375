"""A model that is ready to be traced, with what is known about its inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from autoq.files import sha256_hex

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode.

    Attributes:
        name: the string that loads this model again.
        module: the model; takes ``(N, *input_size)`` in float32.
        transform: from an image of any size and mode to a tensor of shape ``input_size``, normalised as in training.
        input_size: channels, height and width of one input.
        num_classes: number of outputs.
        label_names: names of the outputs, or None if the model does not say.
        weights_sha256: what :func:`weights_sha256` gives for ``module``; where ReLU replaced modules of it, a hash of
            that and their paths.
    """

    name: str
    module: nn.Module
    transform: Callable[[Image.Image], Tensor]
    input_size: tuple[int, int, int]
    num_classes: int
    label_names: tuple[str, ...] | None
    weights_sha256: str


@dataclass(frozen=True)
class EvaluationTransform:
    """Convert an image to the mode a model takes, then resize, crop and normalise it.

    Attributes:
        mode: PIL mode, ``L`` or ``RGB``.
        pipeline: from an image in that mode to a tensor ``(C, H, W)``.
    """

    mode: str
    pipeline: Callable[[Image.Image], Tensor]

    def __call__(self, image: Image.Image) -> Tensor:
        """Tensor ``(C, H, W)`` in float32 of one image."""
        if "transparency" in image.info:
            image = image.convert("RGBA")  # else a palette's transparent colour would be lost with a warning
        return self.pipeline(image.convert(self.mode))


def weights_sha256(module: nn.Module) -> str:
    """Hex SHA-256 of a module's state: names, dtypes, shapes and values; the same in every process."""
    return sha256_hex(_state_chunks(module))


def _state_chunks(module: nn.Module) -> Iterator[bytes]:
    for name, tensor in sorted(module.state_dict().items()):
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
