"""Images with the objects on them, in the format of COCO: one JSON file, and a folder of images."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from autoq.data._base import no_images
from autoq.data._files import BaseFileSource
from autoq.data.objects import Objects
from autoq.errors import DataError, DataNotFoundError

PREFIX = "coco:"
_SLACK_PIXELS = 1.0
"""How far a box may lie outside of its image: annotation tools round."""


@dataclass(frozen=True)
class CocoSource(BaseFileSource):
    """The images of an annotation file, in the order of their numbers.

    Attributes:
        root: the folder of the images.
        sizes: height and width of each image.
        annotations: of each image, as in the file.
        categories: the index of each category of the file into ``class_names``.
        names: of the categories, in the order of their numbers.
    """

    root: Path
    sizes: tuple[tuple[int, int], ...]
    annotations: tuple[tuple[Mapping[str, Any], ...], ...] = field(repr=False)
    categories: Mapping[int, int]
    names: tuple[str, ...]

    @classmethod
    def open(cls, name: str) -> CocoSource:
        """Read ``coco:FILE.json`` or ``coco:FILE.json:IMAGES``; images lie beside the file unless a folder is given.

        Raises:
            DataNotFoundError: there is no such file or folder.
            DataError: the file is not in the format, or an entry is wrong; the message names it.
        """
        file, _, folder = name.removeprefix(PREFIX).partition(".json:")
        path = Path(f"{file}.json" if folder else file).expanduser()
        root = Path(folder).expanduser() if folder else path.parent
        if not path.is_file():
            raise DataNotFoundError(
                f"no annotation file at {str(path)!r}: write coco:FILE.json or coco:FILE.json:IMAGES"
            )
        if not root.is_dir():
            raise DataNotFoundError(f"no folder of images at {str(root)!r}: write coco:FILE.json:IMAGES")
        document = _read(path)
        images = sorted(
            (_image(entry, position, path) for position, entry in enumerate(document["images"])),
            key=lambda image: image[0],
        )
        if not images:
            raise no_images(name, f"{str(path)!r} lists none")
        categories = _categories(document["categories"], path)
        sizes = {number: size for number, _, size in images}
        if len(sizes) < len(images):
            raise DataError(f"{str(path)!r}: two entries of 'images' have one id: number them anew")
        by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for position, entry in enumerate(document["annotations"]):
            by_image[_checked(entry, f"{str(path)!r}: annotations[{position}]", sizes, categories)].append(entry)
        return cls(
            name,
            tuple(PurePosixPath(file_name) for _, file_name, _ in images),
            (),
            root,
            tuple(size for _, _, size in images),
            tuple(tuple(by_image[number]) for number, _, _ in images),
            {number: index for index, number in enumerate(categories)},
            tuple(categories.values()),
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the categories."""
        return self.names

    def label(self, index: int) -> int | None:
        """Return None: images as a whole have no class."""
        del index
        return None

    @property
    def has_objects(self) -> bool:
        """Whether the file has annotations."""
        return any(self.annotations)

    @cached_property
    def has_masks(self) -> bool:
        """Whether every annotation of the file has a mask."""
        return self.has_objects and all(entry.get("segmentation") for own in self.annotations for entry in own)

    def objects(self, index: int) -> Objects:
        """Return the objects on one image.

        Raises:
            DataError: a mask cannot be decoded, or the extra ``detection`` that does so is not installed.
        """
        own, size = self.annotations[index], self.sizes[index]
        boxes = np.array([entry["bbox"] for entry in own], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = boxes.clip(0, [size[1], size[0], size[1], size[0]])
        masks = None
        if self.has_masks:
            masks = [_mask(entry["segmentation"], size, self.where(index)) for entry in own]
        return Objects(
            size=size,
            labels=np.array([self.categories[entry["category_id"]] for entry in own], dtype=np.int64),
            boxes=boxes,
            masks=None if masks is None else np.array(masks, dtype=bool).reshape(-1, *size),
            crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in own], dtype=bool),
        )

    def where(self, index: int) -> str:
        """Return what messages call an image."""
        return str(self.root / self.paths[index])

    def size(self, index: int) -> int:
        """Return the number of bytes of an image file."""
        return (self.root / self.paths[index]).stat().st_size

    def open_file(self, index: int) -> BinaryIO:
        """Open an image file for reading."""
        return (self.root / self.paths[index]).open("rb")


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} is not JSON: {error}; give an annotation file of COCO") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise DataError(f"{str(path)!r} has no list {key!r}: give an annotation file of COCO")
    return dict(document)


def _image(entry: Any, position: int, path: Path) -> tuple[int, str, tuple[int, int]]:
    try:
        number, name, size = int(entry["id"]), str(entry["file_name"]), (int(entry["height"]), int(entry["width"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{str(path)!r}: images[{position}] has no usable {error}: give id, file_name, height and width"
        ) from error
    if min(size) < 1:
        raise DataError(f"{str(path)!r}: images[{position}] is {size[1]}×{size[0]} pixels: give its width and height")
    return number, name, size


def _categories(entries: list[Any], path: Path) -> dict[int, str]:
    try:
        named = {int(entry["id"]): str(entry["name"]) for entry in entries}
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{str(path)!r}: an entry of 'categories' has no usable {error}: give id and name") from error
    if not named:
        raise DataError(f"{str(path)!r} has no categories: list those of its annotations")
    return dict(sorted(named.items()))


def _checked(entry: Any, where: str, sizes: Mapping[int, tuple[int, int]], categories: Mapping[int, str]) -> int:
    """Check an annotation, and return the number of its image."""
    try:
        image, category, box = (
            int(entry["image_id"]),
            int(entry["category_id"]),
            [float(each) for each in entry["bbox"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where} has no usable {error}: give image_id, category_id and bbox") from error
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
    return image


def _mask(segmentation: Any, size: tuple[int, int], where: str) -> npt.NDArray[np.bool_]:
    """Decode polygons, or run lengths in plain or compressed form."""
    try:
        from faster_coco_eval.core import mask as coding
    except ImportError as error:
        raise DataError("masks of COCO need the package faster-coco-eval: pip install 'autoq[detection]'") from error
    height, width = size
    try:
        if isinstance(segmentation, list):
            runs = coding.merge(coding.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            runs = coding.frPyObjects(segmentation, height, width)
        else:
            runs = segmentation
        mask = np.asarray(coding.decode(runs), dtype=bool)
    except Exception as error:  # whatever the decoder raises on damaged input
        raise DataError(f"a mask of {where!r} cannot be decoded: {error}; correct its 'segmentation'") from error
    if mask.shape != size:
        raise DataError(
            f"a mask of {where!r} is of {mask.shape[1]}×{mask.shape[0]} pixels, the image of {width}×{height}"
        )
    return mask
