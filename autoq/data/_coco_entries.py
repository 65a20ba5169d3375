"""Entries of annotation files in the format of COCO: read, checked, and refused with their place in the file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from autoq.errors import DataError, DataNotFoundError

_T = TypeVar("_T")
_SLACK_PIXELS = 1.0
"""How far a box may lie outside of its image: annotation tools round."""
_LONGEST_SHOWN = 80
"""Characters of a wrong value in a message."""


def read_document(path: Path) -> dict[str, Any]:
    """Read an annotation file, which has the lists of the format.

    Raises:
        DataError: it has not.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} is not JSON: {error}; give an annotation file of COCO") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise DataError(f"{str(path)!r} has no list {key!r}: give an annotation file of COCO")
    return dict(document)


def _field(entry: Any, key: str, kind: Callable[[Any], _T], where: str, needed: str) -> _T:
    """Read a field of an entry.

    Raises:
        DataError: it is not there, or not of its kind.
    """
    if not isinstance(entry, dict) or key not in entry:
        raise DataError(f"{where} has no {key!r}: give {needed}")
    try:
        return kind(entry[key])
    except (TypeError, ValueError, OverflowError) as error:
        shown = repr(entry[key])
        shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]}…"
        raise DataError(f"{where} has {key!r} {shown}: give {needed}") from error


def _whole(value: Any) -> int:
    """Return a whole number, which some tools write as text or as 3.0."""
    number = int(value)
    if isinstance(value, bool) or (isinstance(value, float) and number != value):
        raise ValueError(value)
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(value)
    return value


def read_image(entry: Any, position: int, path: Path) -> tuple[int, str, tuple[int, int]]:
    """Read number, file name, and height and width of an image.

    Raises:
        DataError: an entry is wrong.
    """
    where, needed = f"{str(path)!r}: images[{position}]", "id, file_name, height and width"
    number, height, width = (_field(entry, key, _whole, where, needed) for key in ("id", "height", "width"))
    if min(height, width) < 1:
        raise DataError(f"{where} is {width}×{height} pixels: give its width and height")
    return number, _field(entry, "file_name", _text, where, needed), (height, width)


def read_categories(entries: list[Any], path: Path) -> dict[int, str]:
    """Read the names of categories by their numbers, in ascending order.

    Raises:
        DataError: an entry is wrong.
    """
    named: dict[int, str] = {}
    for position, entry in enumerate(entries):
        where = f"{str(path)!r}: categories[{position}]"
        number = _field(entry, "id", _whole, where, "id and name")
        if number in named:
            raise DataError(f"{where} has the id {number} of another category: number them anew")
        named[number] = _field(entry, "name", _text, where, "id and name")
    if not named:
        raise DataError(f"{str(path)!r} has no categories: list those of its annotations")
    return dict(sorted(named.items()))


def check_files(names: Sequence[str], root: Path, path: Path) -> None:
    """Check that images are there.

    Raises:
        DataNotFoundError: one is not.
    """
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise DataNotFoundError(
            f"{str(path)!r} lists {missing[0]!r}, which is not in {str(root)!r} ({len(missing)} of {len(names)} images "
            "are missing): write coco:FILE.json:IMAGES, or leave their entries out"
        )


def check_annotation(
    entry: Any, where: str, sizes: Mapping[int, tuple[int, int]], categories: Mapping[int, str]
) -> tuple[int, Mapping[str, Any]]:
    """Check an annotation, and return the number of its image, and the annotation with numbers for numbers.

    Raises:
        DataError: it is wrong; the message says where.
    """
    needed = "image_id, category_id and bbox"
    image, category = (_field(entry, key, _whole, where, needed) for key in ("image_id", "category_id"))
    box = _field(entry, "bbox", lambda value: [float(each) for each in value], where, needed)
    if image not in sizes:
        raise DataError(f"{where} is of image {image}, which is not among 'images': remove it, or list the image")
    if category not in categories:
        raise DataError(f"{where} has category {category}, which is not among 'categories': remove it, or list it")
    height, width = sizes[image]
    if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:], default=0) <= 0:
        raise DataError(f"{where} has the box {box}: give left, top, width and height, the last two above 0")
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if min(left, top) < -_SLACK_PIXELS or right > width + _SLACK_PIXELS or bottom > height + _SLACK_PIXELS:
        raise DataError(f"{where} has the box {box}, which lies outside of its image of {width}×{height}: correct it")
    if entry.get("segmentation"):
        _check_segmentation(entry["segmentation"], sizes[image], where)
    return image, {**entry, "category_id": category, "bbox": box}


def _check_segmentation(value: Any, size: tuple[int, int], where: str) -> None:
    """Check that a mask is polygons, or run lengths of the image's size; whether these can be decoded is not seen here.

    Raises:
        DataError: it is neither.
    """
    if isinstance(value, list):
        if all(_is_polygon(each) for each in value):
            return
    elif isinstance(value, dict) and isinstance(value.get("counts"), list | str):
        if value.get("size") != list(size):
            given = f"of height and width {value.get('size')}, its image of {list(size)}"
            raise DataError(f"{where} has a mask {given}: correct it")
        return
    raise DataError(
        f"{where} has no usable 'segmentation': give polygons, [[x, y, x, y, …], …], or run lengths, a table of size "
        "and counts"
    )


def _is_polygon(value: Any) -> bool:
    if not isinstance(value, list) or len(value) < 4 or len(value) % 2:
        return False
    return all(isinstance(each, int | float) and math.isfinite(each) for each in value)
