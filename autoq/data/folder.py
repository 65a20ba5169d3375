"""Images in a folder, labelled by the folders inside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NoReturn

from autoq.data._base import is_image_path, no_images, refuse_splits
from autoq.data._files import BaseFileSource, empty_folders
from autoq.errors import DataError


@dataclass(frozen=True)
class FolderSource(BaseFileSource):
    """Images of a folder and the folders in it, sorted by path.

    Attributes:
        root: the folder.
    """

    root: Path

    @classmethod
    def open(cls, name: str, root: Path) -> FolderSource:
        """List the images of ``root``; hidden files and folders are left out.

        Symbolic links are followed, and every folder is read once, by whatever paths it is reached.

        Raises:
            DataError: there is no image, a folder cannot be read, or the folders are splits of a data set.
        """
        found: list[PurePosixPath] = []
        folders: set[str] = set()
        for folder, files in _walk(root):
            relative = PurePosixPath(folder.relative_to(root).as_posix())
            folders.update(relative.parts[:1])
            found += [path for file in files if is_image_path(path := relative / file)]
        if not found:
            raise no_images(name)
        source = cls(name, tuple(sorted(found)), empty_folders(folders, found), root)
        refuse_splits(name, source.class_names)
        return source

    def size(self, index: int) -> int:
        """Return the number of bytes of an image file."""
        return (self.root / self.paths[index]).stat().st_size

    def open_file(self, index: int) -> BinaryIO:
        """Open an image file for reading."""
        return (self.root / self.paths[index]).open("rb")


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield every folder below ``root`` once with the names of its files; links come after what they may lead to."""
    seen: set[tuple[int, int]] = set()
    starts = [root]
    while starts:
        links: list[Path] = []
        for start in starts:
            for path, folders, files in os.walk(start, onerror=_cannot_read):
                status = Path(path).stat()
                if (status.st_dev, status.st_ino) in seen:
                    folders.clear()
                    continue
                seen.add((status.st_dev, status.st_ino))
                shown = sorted(folder for folder in folders if not folder.startswith("."))
                links += [link for folder in shown if (link := Path(path, folder)).is_symlink()]
                folders[:] = shown
                yield Path(path), files
        starts = links


def _cannot_read(error: OSError) -> NoReturn:
    raise DataError(
        f"cannot read folder {os.fsdecode(error.filename)!r}: {error.strerror}; make it readable, or move it away"
    ) from error
