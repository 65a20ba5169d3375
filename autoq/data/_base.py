"""The interface of image sources, and the code that folders and archives share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, BinaryIO, Protocol

from autoq.errors import DataError
from autoq.pixels import eight_bit

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes, in lower case, of the files that are taken for images."""

_SPLIT = re.compile(
    r"(.*[_-])?(train|training|val|valid|validation|test|testing|eval|evaluation|dev|calib|calibration)([0-9]{4})?",
    re.IGNORECASE,
)
"""Names of the parts of a data set: ``train``, ``val2017``, ``ILSVRC2012_img_val``."""


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
    """Return the class names, and a class index for each image, from the folder of the root that it lies in.

    Classes are in natural order (``2`` before ``10``), which is how timm numbers them in training. Folders inside a
    class folder belong to its class. Images that lie directly in the root have no label.

    Args:
        paths: image paths relative to the root of their source.

    Returns:
        The class names, None if every image lies in the root, and one index (or None) for each path.
    """
    folders = [top_folder(path) for path in paths]
    names = in_natural_order({folder for folder in folders if folder is not None})
    index_of = {name: index for index, name in enumerate(names)}
    return names or None, tuple(None if folder is None else index_of[folder] for folder in folders)


def top_folder(path: PurePosixPath) -> str | None:
    """Return the folder of the root in which a path lies, or None if it lies directly in the root."""
    return path.parts[0] if len(path.parts) > 1 else None


def in_natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names as people do: ``2`` before ``10``, without regard to case."""
    return tuple(sorted(names, key=_natural_key))


def refuse_splits(name: str, class_names: Sequence[str] | None) -> None:
    """Refuse a root whose folders are the splits of a data set: taken together they would be training and test at once.

    Raises:
        DataError: names the splits.
    """
    splits = [folder for folder in class_names or () if _SPLIT.fullmatch(folder)]
    if len(splits) > 1:
        raise DataError(
            f"{name!r} holds the splits {' and '.join(map(repr, splits))}: give one of them, "
            f"such as {name.rstrip('/') + '/' + splits[-1]!r}"
        )


def decode(open_file: Callable[[], BinaryIO], where: str) -> Image.Image:
    """Decode a whole image, in the mode it is stored in; more than 8 bits are scaled to 8.

    Pixels are taken as they are stored, as by timm and torchvision: an orientation in the image's EXIF data is not
    applied.

    Args:
        open_file: opens its file, seekable.
        where: what to call the image in a message.

    Raises:
        DataError: the image is missing, corrupt, truncated or implausibly large, or has values outside of its range.
    """
    from PIL import Image

    try:
        with open_file() as stream, Image.open(stream) as image:
            image.load()
            return eight_bit(image.copy())
    except Exception as error:  # decoders raise nearly anything on damaged input
        raise _unreadable(where, error) from error


def check_header(open_file: Callable[[], BinaryIO], where: str) -> tuple[int, int]:
    """Check that a file begins like an image; its pixels are not decoded.

    Args:
        open_file: opens the file, seekable.
        where: what to call the image in a message.

    Returns:
        Its width and height.

    Raises:
        DataError: it is missing, empty or no image.
    """
    from PIL import Image

    try:
        with open_file() as stream, Image.open(stream) as image:
            return image.size
    except Exception as error:  # decoders raise nearly anything on damaged input
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> DataError:
    from PIL import UnidentifiedImageError

    if isinstance(error, DataError):  # which says what to do
        return DataError(f"cannot read image {where!r}: {error}")
    reason = "it is not an image, or is corrupt" if isinstance(error, UnidentifiedImageError) else _say(error)
    return DataError(f"cannot read image {where!r}: {reason}; remove or replace it")


def no_images(name: str, reason: str = "") -> DataError:
    """Make the exception for a source without a single image; ``reason`` says why it has none."""
    reason = reason or f"it has no file that ends in {', '.join(IMAGE_SUFFIXES)}"
    return DataError(f"no images in {name!r}: {reason}")


def _natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a key that sorts numbers by value and letters without case; text and numbers alternate in it."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _say(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
