"""Sources whose images are files: what folders and archives share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from autoq.data._base import check_header, classes_of, decode, in_natural_order, top_folder

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class BaseFileSource(ABC):
    """Images by their paths, labelled by the folder of the root that they lie in.

    Attributes:
        name: the string that opens this source again.
        paths: of the images, relative to the root, sorted.
        empty_classes: folders of the root in which no image lies, in natural order.
    """

    name: str
    paths: tuple[PurePosixPath, ...]
    empty_classes: tuple[str, ...]

    @cached_property
    def _classes(self) -> tuple[tuple[str, ...] | None, tuple[int | None, ...]]:
        return classes_of(self.paths)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the folders that hold images, in natural order, or None if the root alone does."""
        return self._classes[0]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def load(self, index: int) -> Image.Image:
        """Decode one image.

        Raises:
            DataError: the image cannot be read.
        """
        return decode(lambda: self.open_file(index), self.where(index))

    def check(self, index: int) -> None:
        """Check that a file begins like an image, without decoding it.

        Raises:
            DataError: it does not.
        """
        check_header(lambda: self.open_file(index), self.where(index))

    def label(self, index: int) -> int | None:
        """Return the index into ``class_names`` of one image, or None if it is not labelled."""
        return self._classes[1][index]

    def where(self, index: int) -> str:
        """Return what messages call an image."""
        return f"{self.name.rstrip('/')}/{self.paths[index]}"

    @abstractmethod
    def size(self, index: int) -> int:
        """Return the number of bytes of an image file.

        Raises:
            OSError: it is not there any more.
        """

    @abstractmethod
    def open_file(self, index: int) -> BinaryIO:
        """Open an image file for reading, seekable.

        Raises:
            OSError: it cannot be read.
        """


def empty_folders(folders: Iterable[str], paths: Iterable[PurePosixPath]) -> tuple[str, ...]:
    """Return the folders of a root in which none of the images lies, in natural order; hidden ones are left out."""
    filled = {top_folder(path) for path in paths}
    return in_natural_order(name for name in folders if name not in filled and not name.startswith("."))
