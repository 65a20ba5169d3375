"""The UCI handwritten digits that come with scikit-learn: images that need no download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autoq.errors import DataError
from autoq.validation import did_you_mean

if TYPE_CHECKING:
    from PIL import Image

SPLITS = ("train", "calib", "val")
"""The disjoint parts, of 1,001, 256 and 540 images."""

_CLASS_NAMES = tuple("0123456789")
_VAL_IMAGES_PER_CLASS = 54
_CALIB_IMAGES = 256
_SPLIT_SEED = 0
_FILE = "datasets/data/digits.csv.gz"
"""In scikit-learn's folder: rows of 64 pixels and the digit."""


@dataclass(frozen=True)
class DigitsSource:
    """One split of the digits: grayscale images of 8×8 pixels, all labelled.

    Attributes:
        name: the string that opens this source again.
        indices: positions of the images in scikit-learn's data set.
        class_names: ``0`` to ``9``.
    """

    name: str
    indices: tuple[int, ...]
    class_names: tuple[str, ...] = _CLASS_NAMES

    @classmethod
    def open(cls, name: str, split: str) -> DigitsSource:
        """Take one of ``SPLITS``; they are the same in every process.

        Raises:
            DataError: there is no such split.
        """
        if split not in SPLITS:
            names = [f"digits/{known}" for known in SPLITS]
            raise DataError(f"unknown split {name!r}: choose from {', '.join(names)}.{did_you_mean(name, names)}")
        return cls(name, _split_indices()[split])

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.indices)

    def load(self, index: int) -> Image.Image:
        """Return one image, in mode ``L``."""
        from PIL import Image

        return Image.fromarray(_images_and_targets()[0][self.indices[index]])

    def label(self, index: int) -> int:
        """Return the digit."""
        return int(_images_and_targets()[1][self.indices[index]])


@cache
def _images_and_targets() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    rows = _rows()
    # Ink is counted from 0 to 16; 255 is what image libraries take for full ink.
    return np.round(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), rows[:, -1].astype(np.int64)


def _rows() -> npt.NDArray[np.float64]:
    """Read the file itself: to import scikit-learn would take two seconds of every command."""
    spec = find_spec("sklearn")
    path = Path(str(spec.origin if spec else "")).parent / _FILE
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return np.column_stack([digits.data, digits.target])


@cache
def _split_indices() -> dict[str, tuple[int, ...]]:
    generator = np.random.default_rng(_SPLIT_SEED)
    targets = _images_and_targets()[1]
    parts: dict[str, list[int]] = {split: [] for split in SPLITS}
    classes = len(_CLASS_NAMES)
    for digit in range(classes):
        shuffled = generator.permutation(np.flatnonzero(targets == digit)).tolist()
        calib_images = _CALIB_IMAGES // classes + (digit < _CALIB_IMAGES % classes)
        parts["val"] += shuffled[:_VAL_IMAGES_PER_CLASS]
        parts["calib"] += shuffled[_VAL_IMAGES_PER_CLASS : _VAL_IMAGES_PER_CLASS + calib_images]
        parts["train"] += shuffled[_VAL_IMAGES_PER_CLASS + calib_images :]
    return {split: tuple(sorted(indices)) for split, indices in parts.items()}
