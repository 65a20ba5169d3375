"""How detectors of transformers are fed: the whole image at one size, whatever its shape."""

from __future__ import annotations

from typing import Any

from autoq.models.square_transform import SquareTransform

_FIND_OBJECTS = ("ForObjectDetection", "ForInstanceSegmentation", "ForUniversalSegmentation", "ForSegmentation")
"""How names of classes of transformers end whose outputs are objects."""


def is_detector(module: Any) -> bool:
    """Return whether a model of transformers finds objects, whose boxes and masks are those of its whole input."""
    return type(module).__name__.endswith(_FIND_OBJECTS)


def square_input(processor: Any, size: tuple[int, int]) -> SquareTransform:
    """Return a transform that normalises as an image processor does, and resizes every image to one size.

    Processors of detectors keep the shape of an image, so that their batches are padded and have masks; a model that is
    traced takes one size.

    Args:
        processor: of transformers.
        size: height and width of the input.
    """
    normalises = bool(getattr(processor, "do_normalize", False))
    mean, std = (processor.image_mean, processor.image_std) if normalises else ((0.0,) * 3, (1.0,) * 3)
    return SquareTransform(size, tuple(mean), tuple(std))
