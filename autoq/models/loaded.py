"""A model that is ready to be traced, with what is known about its inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from autoq.errors import ArgumentTypeError, DataError, ModelError
from autoq.files import sha256_hex
from autoq.identity import tensor_chunks
from autoq.models.letterbox_transform import LetterboxTransform
from autoq.models.square_transform import SquareTransform
from autoq.pixels import WHOLE, Content, in_mode

if TYPE_CHECKING:
    from PIL import Image

_BLANK_SIDE = 256
IN_MEMORY = "memory:"
"""What the name of a model begins with that was given as an object; its class follows."""


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode.

    Attributes:
        name: the string that loads this model again.
        module: the model; takes ``(N, *input_size)``.
        transform: from an image of any size and mode to a tensor of shape ``input_size``, normalised as in training;
            None if it is unknown: images then have to be tensors.
        input_size: shape of one input: channels, height and width of an image.
        num_classes: number of outputs, or None if the model does not say.
        label_names: names of the outputs, or None if the model does not say.
        weights_sha256: what :func:`weights_sha256` gives for ``module``; where ReLU replaced modules of it, a hash of
            that and their paths.
    """

    name: str
    module: nn.Module
    transform: Callable[[Image.Image], Tensor] | None
    input_size: tuple[int, ...]
    num_classes: int | None
    label_names: tuple[str, ...] | None
    weights_sha256: str

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """How an image becomes the input, as plain JSON with ``input_size``; None where only code says so."""
        description = getattr(self.transform, "description", None)
        return None if description is None else {"input_size": list(self.input_size), **description}

    def content(self, size: tuple[int, int]) -> Content:
        """Return what an image of a height and width takes up of the input: all, unless the transform tells."""
        told: Callable[[tuple[int, int]], Content] | None = getattr(self.transform, "content", None)
        return WHOLE if told is None else told(size)


@dataclass(frozen=True)
class EvaluationTransform:
    """Convert an image to the mode a model takes, then resize, crop and normalise it.

    Attributes:
        mode: PIL mode, ``L`` or ``RGB``.
        pipeline: from an image in that mode to a tensor ``(C, H, W)``.
        settings: what the pipeline does, by timm's names: ``mean``, ``std``, ``interpolation``, ``crop_pct``.
    """

    mode: str
    pipeline: Callable[[Image.Image], Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def description(self) -> dict[str, Any]:
        """The mode and the settings as plain JSON."""
        return plain_json({"mode": self.mode, **self.settings})

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image to a float32 tensor of shape (C, H, W).

        Raises:
            DataError: a pixel is outside of the range of its type.
        """
        return self.pipeline(in_mode(image, self.mode))


def plain_json(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document as it comes back from a JSON file; what JSON lacks as its text."""
    made: dict[str, Any] = json.loads(json.dumps(dict(document), default=str))
    return made


def weights_sha256(module: nn.Module) -> str:
    """Return the hex SHA-256 of a module's state: names, dtypes, shapes and values; the same in every process."""
    return sha256_hex(tensor_chunks(sorted(module.state_dict().items())))


Preprocess = Callable[[Any], Any]
"""From an image to a tensor (C, H, W), or an image processor of transformers."""


@dataclass(frozen=True)
class PreprocessedTransform:
    """Make a model's input of an image by a function of the user's.

    Attributes:
        preprocess: takes an RGB image.
    """

    preprocess: Preprocess

    @property
    def description(self) -> dict[str, Any] | None:
        """What an image processor of transformers says of itself, as plain JSON; None for other functions."""
        describe = getattr(self.preprocess, "to_dict", None)
        return None if describe is None else plain_json(describe())

    @property
    def content(self) -> Callable[[tuple[int, int]], Content] | None:
        """The function's own ``content``, which tells what an image takes up of the input; None where it has none."""
        return getattr(self.preprocess, "content", None)

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image to a tensor of shape (C, H, W), or to a vector (see ``autoq.models.input_layout``).

        Raises:
            DataError: the function returns something else, or a pixel is outside of the range of its type.
        """
        made = self.preprocess(in_mode(image, "RGB"))
        if isinstance(made, Mapping) and "pixel_values" in made:
            made = made["pixel_values"]
            made = made[0] if isinstance(made, list) else made
        tensor = made if isinstance(made, Tensor) else torch.as_tensor(made)
        if tensor.ndim == 4 and len(tensor) == 1:  # image processors make batches of one
            tensor = tensor[0]
        if tensor.ndim not in (1, 3):
            raise DataError(
                f"preprocess makes a tensor of shape {tuple(tensor.shape)} of an image: let it return (C, H, W), or a "
                "vector that the model takes apart"
            )
        return tensor


def make_transform(preprocess: Preprocess) -> Callable[[Image.Image], Tensor]:
    """Make a transform of what a user gives as ``preprocess``.

    Raises:
        ArgumentTypeError: it cannot be called.
    """
    if not callable(preprocess):
        raise ArgumentTypeError(f"preprocess is a function from an image to a tensor, not {type(preprocess).__name__}")
    return (
        preprocess
        if isinstance(preprocess, LetterboxTransform | SquareTransform)
        else PreprocessedTransform(preprocess)
    )


def input_size_of(transform: Callable[[Image.Image], Tensor], shown: str) -> tuple[int, ...]:
    """Return the shape (C, H, W) that a transform gives a blank image.

    Raises:
        ModelError: the transform does not work.
    """
    from PIL import Image

    try:
        return tuple(transform(Image.new("RGB", (_BLANK_SIDE, _BLANK_SIDE))).shape)
    except Exception as error:  # whatever the user's code raises
        raise ModelError(
            f"{shown} cannot preprocess an image: {first_line(error)}; correct its preprocessing"
        ) from error


def first_line(error: Exception) -> str:
    """Return what an exception of another library says first, without a full stop."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
