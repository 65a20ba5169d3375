"""Image data sets of the Hugging Face hub, through the optional package ``datasets``."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from autoq.errors import DataError
from autoq.pixels import eight_bit

if TYPE_CHECKING:
    from PIL import Image

_SPLITS = {
    "calibration": ("train", "validation", "test"),
    "evaluation": ("validation", "test", "train"),
}


@dataclass(frozen=True)
class HfdsSource:
    """One split of a hub data set.

    Attributes:
        name: the string that opens this source again.
        split: the data set's name and that of its split.
        rows: the data set, indexable by image.
        image_column: the column that holds the images.
        label_column: the column of class indices, or None if there is none.
        class_names: names of the classes, or None if nothing is labelled.
    """

    name: str
    split: str
    rows: Any
    image_column: str
    label_column: str | None
    class_names: tuple[str, ...] | None

    @classmethod
    def open(cls, name: str, role: Literal["calibration", "evaluation"]) -> HfdsSource:
        """Open ``hfds/NAME`` (the split that suits ``role``) or ``hfds/NAME:SPLIT``.

        Raises:
            DataError: ``datasets`` is not installed, or the data set or its split cannot be
                downloaded, or has no images.
        """
        try:
            datasets = importlib.import_module("datasets")
        except ImportError as error:
            raise DataError(f"{name!r} needs the package datasets: pip install 'autoq[hfds]'") from error
        repository, _, split = name.removeprefix("hfds/").partition(":")
        try:
            if not split:
                available = datasets.get_dataset_split_names(repository)
                split = next((known for known in _SPLITS[role] if known in available), available[0])
            rows = datasets.load_dataset(repository, split=split)
        except Exception as error:  # network, authorisation, unknown names: every kind has its own exception
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise DataError(f"cannot load {name!r}: {reason}; check the name, or give an image folder") from error
        columns = {column: type(feature).__name__ for column, feature in rows.features.items()}
        image_column = next((column for column, kind in columns.items() if kind == "Image"), None)
        if image_column is None:
            raise DataError(f"{name!r} has no image column (it has {', '.join(columns)}): give a data set of images")
        label_column = next((column for column, kind in columns.items() if kind == "ClassLabel"), None)
        class_names = tuple(rows.features[label_column].names) if label_column else None
        return cls(name, f"{repository}:{split}", rows, image_column, label_column, class_names)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.rows)

    def load(self, index: int) -> Image.Image:
        """Decode one image.

        Raises:
            DataError: the image cannot be read.
        """
        try:
            image: Image.Image = eight_bit(self.rows[index][self.image_column])
        except Exception as error:  # decoders raise nearly anything on damaged input
            raise DataError(f"cannot read image {index} of {self.name!r}: {error}") from error
        return image

    def label(self, index: int) -> int | None:
        """Return the index into ``class_names`` of one image, or None if it is not labelled."""
        if self.label_column is None:
            return None
        # Selecting the column first leaves the image undecoded.
        label = int(self.rows.select_columns([self.label_column])[index][self.label_column])
        return label if label >= 0 else None
