"""The interface of image sources, and the code that folders and archives share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Protocol

from autoq.errors import DataError

if TYPE_CHECKING:
    import os

    from PIL import Image

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes, in lower case, of the files that are taken for images."""


class ImageSource(Protocol):
    """A fixed sequence of images, labelled or not.

    Attributes:
        name: the string that opens this source again.
        class_names: names of the classes that ``label`` counts, or None if nothing is labelled.
    """

    @property
    def name(self) -> str:
        """The string that opens this source again."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes that ``label`` counts, or None if nothing is labelled."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def load(self, index: int) -> Image.Image:
        """Decode one image, in the mode it is stored in; safe to call from several threads.

        Raises:
            DataError: the image cannot be read.
        """
        ...

    def label(self, index: int) -> int | None:
        """Return the index into ``class_names`` of one image, or None if it is not labelled."""
        ...


def is_image_path(path: PurePosixPath) -> bool:
    """Return whether a path, relative to its source, is an image's and no part of it is hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in path.parts)


def classes_of(paths: Iterable[PurePosixPath]) -> tuple[tuple[str, ...] | None, tuple[int | None, ...]]:
    """Return the class names, and a class index for each image, from the folder that directly holds it.

    Classes are in natural order (``2`` before ``10``), which is how timm numbers them in training. Images that lie in
    no folder have no label.

    Args:
        paths: image paths relative to the root of their source.

    Returns:
        The class names, None if every image lies in the root, and one index (or None) for each path.
    """
    folders = [path.parent.name for path in paths]
    names = tuple(sorted({folder for folder in folders if folder}, key=_natural_key))
    index_of = {name: index for index, name in enumerate(names)}
    return names or None, tuple(index_of.get(folder) for folder in folders)


def decode(stream: BinaryIO | str | os.PathLike[str], where: str) -> Image.Image:
    """Decode a whole image.

    Args:
        stream: a path or a seekable binary stream.
        where: what to call the image in a message.

    Raises:
        DataError: the image is missing, corrupt, truncated or implausibly large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(stream) as image:
            image.load()
            return image.copy()
    except Exception as error:  # decoders raise nearly anything on damaged input
        reason = "it is not an image, or is corrupt" if isinstance(error, UnidentifiedImageError) else _say(error)
        raise DataError(f"cannot read image {where!r}: {reason}; remove or replace it") from error


def no_images(name: str) -> DataError:
    """Make the exception for a source without a single image."""
    return DataError(f"no images in {name!r}: it has no file that ends in {', '.join(IMAGE_SUFFIXES)}")


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts numbers by value and letters without case; text and numbers alternate in it."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _say(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
