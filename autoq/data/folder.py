"""Images in a folder, labelled by the folders inside it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from autoq.data._base import classes_of, decode, is_image_path, no_images

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class FolderSource:
    """Images of a folder and the folders in it, sorted by path.

    Attributes:
        name: the string that opens this source again.
        root: the folder.
        paths: image paths relative to ``root``.
        labels: class index of each image, None where it lies directly in ``root``.
        class_names: names of the folders that hold images, or None if ``root`` alone does.
    """

    name: str
    root: Path
    paths: tuple[PurePosixPath, ...]
    labels: tuple[int | None, ...]
    class_names: tuple[str, ...] | None

    @classmethod
    def open(cls, name: str, root: Path) -> FolderSource:
        """List the images of ``root``; hidden files and folders are left out.

        Raises:
            DataError: there is no image.
        """
        found = []
        for folder, _, files in os.walk(root, followlinks=True):
            relative = PurePosixPath(Path(folder).relative_to(root).as_posix())
            found += [relative / file for file in files if is_image_path(relative / file)]
        if not found:
            raise no_images(name)
        paths = tuple(sorted(found))
        class_names, labels = classes_of(paths)
        return cls(name, root, paths, labels, class_names)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def load(self, index: int) -> Image.Image:
        """Decode one image.

        Raises:
            DataError: the image cannot be read.
        """
        path = self.root / self.paths[index]
        return decode(path, str(path))

    def label(self, index: int) -> int | None:
        """Return the index into ``class_names`` of one image, or None if it is not labelled."""
        return self.labels[index]
