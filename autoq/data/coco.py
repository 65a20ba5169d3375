"""Images with the objects on them, in the format of COCO: one JSON file, and a folder of images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from autoq.data._base import check_header, no_images
from autoq.data._coco_entries import check_annotation, check_files, read_categories, read_document, read_image
from autoq.data._files import BaseFileSource
from autoq.data.objects import Objects
from autoq.errors import DataError, DataNotFoundError

if TYPE_CHECKING:
    from PIL import Image

PREFIX = "coco:"


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
            DataNotFoundError: there is no such file or folder, or an image is missing.
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
        document = read_document(path)
        images = sorted(
            (read_image(entry, position, path) for position, entry in enumerate(document["images"])),
            key=lambda image: image[0],
        )
        if not images:
            raise no_images(name, f"{str(path)!r} lists none")
        categories = read_categories(document["categories"], path)
        sizes = {number: size for number, _, size in images}
        if len(sizes) < len(images):
            raise DataError(f"{str(path)!r}: two entries of 'images' have one id: number them anew")
        by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for position, entry in enumerate(document["annotations"]):
            image, checked = check_annotation(entry, f"{str(path)!r}: annotations[{position}]", sizes, categories)
            by_image[image].append(checked)
        check_files([file_name for _, file_name, _ in images], root, path)
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

    def load(self, index: int) -> Image.Image:
        """Decode one image.

        Raises:
            DataError: the image cannot be read, or has another size than in the file.
        """
        image = super().load(index)
        self._check_size(index, image.size)
        return image

    def check(self, index: int) -> None:
        """Check that a file begins like an image of the size that the annotation file gives.

        Raises:
            DataError: it does not.
        """
        self._check_size(index, check_header(lambda: self.open_file(index), self.where(index)))

    def _check_size(self, index: int, found: tuple[int, int]) -> None:
        height, width = self.sizes[index]
        if found != (width, height):
            raise DataError(
                f"image {self.where(index)!r} has {found[0]}×{found[1]} pixels, but {width}×{height} in the annotation "
                "file: its objects are of another image"
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
