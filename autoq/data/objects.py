"""What is on an image: the labels of detectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from autoq.data._base import ImageSource
from autoq.pixels import WHOLE, Content


@dataclass(frozen=True)
class Objects:
    """The objects on one image, in pixels of the image as it is stored.

    Attributes:
        size: height and width of the image.
        labels: the class of each object.
        boxes: left, top, right and bottom of each, of shape (objects, 4).
        masks: the pixels of each, of shape (objects, height, width); None where only boxes are known.
        crowd: whether each stands for several objects that nobody took apart.
        content: what the image takes up of the input of the model that is to find them.
    """

    size: tuple[int, int]
    labels: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    masks: npt.NDArray[np.bool_] | None
    crowd: npt.NDArray[np.bool_]
    content: Content = WHOLE


@runtime_checkable
class AnnotatedSource(ImageSource, Protocol):
    """A fixed sequence of images with the objects on them; ``class_names`` are those of objects.

    Attributes:
        has_objects: whether there is an object on any image.
        has_masks: whether all objects have masks.
    """

    @property
    def has_objects(self) -> bool:
        """Whether there is an object on any image."""
        ...

    @property
    def has_masks(self) -> bool:
        """Whether all objects have masks."""
        ...

    def objects(self, index: int) -> Objects:
        """Return the objects on one image, their labels as indices into ``class_names``.

        Raises:
            DataError: a mask cannot be decoded.
        """
        ...


def boxes_of_masks(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the smallest boxes around masks (objects, height, width) that are not empty, of shape (objects, 4).

    >>> boxes_of_masks(np.pad(np.ones((1, 2, 3), dtype=bool), ((0, 0), (1, 0), (4, 1)))).tolist()
    [[4.0, 1.0, 7.0, 3.0]]
    """
    columns, rows = np.asarray(masks.any(1)), np.asarray(masks.any(2))
    width, height = columns.shape[1], rows.shape[1]
    sides = (columns.argmax(1), rows.argmax(1), width - columns[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1))
    return np.stack(sides, 1).astype(np.float64)
