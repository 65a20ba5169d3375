"""Images with maps of classes: a folder of images, and one of PNG files whose pixels are numbers of classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from autoq.data._base import check_header
from autoq.data.folder import FolderSource
from autoq.data.label_maps import UNLABELLED
from autoq.errors import DataError, DataNotFoundError

PREFIX = "maps:"
CLASSES = "classes.txt"
"""File beside the maps: the name of class 0 in its first line, and so on; a line without a name is no class."""

_MODES = ("L", "P", "I;16", "I")


@dataclass(frozen=True)
class MapsSource(FolderSource):
    """The images of a folder, each with a map of the same path below another folder.

    Attributes:
        maps: paths of the maps, one for each image.
        value_names: of the values in the maps, an empty text for one that is no class; None where nothing says so.
    """

    maps: tuple[Path, ...]
    value_names: tuple[str, ...] | None

    form: ClassVar[str] = "maps:IMAGES:LABELS"

    @classmethod
    def open_maps(cls, name: str) -> MapsSource:
        """Read ``maps:IMAGES:LABELS``; the map of ``IMAGES/a/b.jpg`` is ``LABELS/a/b.png``.

        Raises:
            DataNotFoundError: there is no such folder.
            DataError: there is no image, or one has no map; the message names it.
        """
        folders = [Path(part).expanduser() for part in name.removeprefix(PREFIX).split(":")]
        if len(folders) != 2:
            raise DataError(f"cannot read {name!r}: write {cls.form}, a folder of images and one of their label maps")
        for folder, what in zip(folders, ("images", "label maps"), strict=True):
            if not folder.is_dir():
                raise DataNotFoundError(f"no folder of {what} at {str(folder)!r}: write {cls.form}")
        images, labels = folders
        found = FolderSource.open(str(images), images)
        maps = tuple(labels / path.with_suffix(".png") for path in found.paths)
        for path, own in zip(found.paths, maps, strict=True):
            if not own.is_file():
                raise DataError(f"image {str(images / path)!r} has no label map at {str(own)!r}: add it")
        return cls(name, found.paths, found.empty_classes, images, maps, _names(labels / CLASSES))

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, if the file ``classes.txt`` tells them."""
        return None if self.value_names is None else tuple(filter(None, self.value_names))

    def where(self, index: int) -> str:
        """Return what messages call an image."""
        return str(self.root / self.paths[index])

    def label(self, index: int) -> int | None:
        """Return None: images as a whole have no class."""
        del index
        return None

    def label_map(self, index: int) -> npt.NDArray[np.int64]:
        """Return the class of each pixel, of the size of its image.

        Raises:
            DataError: the map is no greyscale or palette image, is not of the image's size, or has a value without a
                line in ``classes.txt``.
        """
        from PIL import Image

        self.check(index)
        path = self.maps[index]
        try:
            with Image.open(path) as image:
                values = np.asarray(image).astype(np.int64)
        except Exception as error:  # decoders raise nearly anything on damaged input
            raise DataError(f"cannot read label map {str(path)!r}: {error}") from error
        return values if self.value_names is None else self._indices(values, path)

    def check(self, index: int) -> None:
        """Check that an image and its label map begin like images of one size, without decoding them.

        Raises:
            DataError: they do not.
        """
        from PIL import Image

        size, path = check_header(lambda: self.open_file(index), self.where(index)), self.maps[index]
        try:
            with Image.open(path) as image:
                mode, found = image.mode, image.size
        except Exception as error:  # decoders raise nearly anything on damaged input
            raise DataError(f"cannot read label map {str(path)!r}: {error}") from error
        if mode not in _MODES:
            raise DataError(
                f"cannot read label map {str(path)!r}: its mode is {mode!r}: save numbers of classes as a greyscale or "
                "palette PNG"
            )
        if found != size:
            raise DataError(
                f"label map {str(path)!r} has {found[0]}×{found[1]} pixels, its image {size[0]}×{size[1]}: give one "
                "label for each pixel"
            )

    def _indices(self, values: npt.NDArray[np.int64], path: Path) -> npt.NDArray[np.int64]:
        """Return values as indices into :attr:`class_names`."""
        names = self.value_names or ()
        known = np.full(UNLABELLED + 1, -1, dtype=np.int64)
        known[UNLABELLED] = UNLABELLED
        is_class = np.array([bool(name) for name in names])
        known[: len(names)] = np.where(is_class, np.cumsum(is_class) - 1, UNLABELLED)
        found: npt.NDArray[np.int64] = known[values.clip(0, len(known) - 1)]
        if (found < 0).any() or values.max() >= len(known):
            value = int(values[(found < 0) | (values >= len(known))].max())
            raise DataError(
                f"label map {str(path)!r} has the value {value}, but {CLASSES} has {len(names)} lines: add its class, "
                f"or use {UNLABELLED} for pixels without one"
            )
        return found


def _names(path: Path) -> tuple[str, ...] | None:
    if not path.is_file():
        return None
    try:
        names = tuple(line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {str(path)!r}: {error}; give a name a line") from error
    if not any(names):
        raise DataError(f"{str(path)!r} names no class: give a name a line, or remove it")
    if len(names) > UNLABELLED:
        raise DataError(f"{str(path)!r} has {len(names)} lines, but label maps tell {UNLABELLED} classes apart at most")
    return names
