"""A class for each pixel: the labels of segmenters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from autoq.data._base import ImageSource
from autoq.data.objects import Objects
from autoq.errors import DataError
from autoq.pixels import WHOLE, Content

UNLABELLED = 255
"""What a pixel without a class has."""


@dataclass(frozen=True)
class LabelMap:
    """The classes of one image's pixels.

    Attributes:
        classes: of each pixel, of shape (height, width); :data:`UNLABELLED` where there is none.
        content: what the image takes up of the input of the model that is to find them.
    """

    classes: npt.NDArray[np.int64]
    content: Content = WHOLE


@runtime_checkable
class MapSource(ImageSource, Protocol):
    """A fixed sequence of images with the classes of their pixels; without ``class_names``, these are outputs."""

    def label_map(self, index: int) -> npt.NDArray[np.int64]:
        """Return the class of each pixel of one image, (height, width), as an index into ``class_names``.

        Raises:
            DataError: it cannot be read.
        """
        ...


def map_of_objects(objects: Objects) -> npt.NDArray[np.int64]:
    """Return the class of each pixel: that of the object it belongs to; none where there is no object, or two classes.

    Raises:
        DataError: there are no masks.

    >>> masks = np.array([[[True, True, False, False]], [[False, True, True, False]]])
    >>> both = Objects((1, 4), np.array([0, 3]), np.zeros((2, 4)), masks, np.zeros(2, dtype=bool))
    >>> map_of_objects(both).tolist()
    [[0, 255, 3, 255]]
    """
    if objects.masks is None:
        raise DataError("objects without masks do not tell the class of a pixel: give masks")
    classes = np.full(objects.size, UNLABELLED, dtype=np.int64)
    claims = np.zeros(objects.size, dtype=np.int64)
    for label in np.unique(objects.labels):
        own = objects.masks[objects.labels == label].any(0)
        classes[own] = label
        claims += own
    classes[claims > 1] = UNLABELLED
    return classes
