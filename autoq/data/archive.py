"""Images in a tar of an image folder, read in place."""

from __future__ import annotations

import gzip
import io
import logging
import os
import posixpath
import shutil
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from autoq.data._base import is_image_path, no_images, refuse_splits, top_folder
from autoq.data._files import BaseFileSource, empty_folders
from autoq.errors import DataError

_logger = logging.getLogger(__name__)
_MOST_LINKS = 40
"""Links in a row beyond which they count as a loop, as in Linux."""
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class _Place:
    """Where a file lies in the archive."""

    offset: int
    size: int


@dataclass(frozen=True)
class ArchiveSource(BaseFileSource):
    """Images of a tar, in the order and with the labels of the folder it was made of.

    A single folder at the top of the archive is that folder. The archive stays open as long as this object lives; it is
    read by position, so that threads can share it.

    Attributes:
        places: of each image in the archive.
        descriptor: file descriptor of the uncompressed archive.
    """

    places: tuple[_Place, ...]
    descriptor: int

    @classmethod
    def open(cls, name: str, path: Path) -> ArchiveSource:
        """List the images of a tar; a compressed one is first unpacked to an unnamed temporary file.

        Links are followed to files of the same archive. Those that lead elsewhere, and what is no plain file, are
        counted in a warning.

        Raises:
            DataError: the file is not a tar, is damaged, has no image, or its folders are splits of a data set.
        """
        try:
            descriptor = _open_uncompressed(path)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _damaged(name) from error
        except OSError as error:
            raise DataError(f"cannot read {name!r}: {error.strerror or error}") from error
        try:
            found, folders = _list_images(name, descriptor)
            paths = tuple(sorted(found))
            places = tuple(found[path] for path in paths)
            source = cls(name, paths, empty_folders(folders, paths), places, descriptor)
            refuse_splits(name, source.class_names)
        except BaseException:
            os.close(descriptor)
            raise
        weakref.finalize(source, os.close, descriptor)
        return source

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the archive again in another process, or for a copy: the descriptor is this object's own."""
        return ArchiveSource.open, (self.name, Path(self.name).expanduser())

    def size(self, index: int) -> int:
        """Return the number of bytes of an image file."""
        return self.places[index].size

    def open_file(self, index: int) -> BinaryIO:
        """Read an image file."""
        place = self.places[index]
        return io.BytesIO(os.pread(self.descriptor, place.size, place.offset))


def _open_uncompressed(path: Path) -> int:
    with path.open("rb") as archive:
        if archive.read(len(_GZIP_MAGIC)) != _GZIP_MAGIC:
            return os.dup(archive.fileno())
    # Random access into a gzip stream would decompress it from the start for every image.
    with gzip.open(path) as stream, tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(stream, unpacked)
        unpacked.flush()
        return os.dup(unpacked.fileno())


def _list_images(name: str, descriptor: int) -> tuple[dict[PurePosixPath, _Place], set[str]]:
    """Return the place of every image by its path, and the folders at the root."""
    entries = _entries(name, descriptor)
    files = {path: entry for path, entry in entries.items() if not entry.isdir()}
    strip = len({path.parts[0] for path in files}) == 1 and all(len(path.parts) > 1 for path in files)
    found: dict[PurePosixPath, _Place] = {}
    lost: list[str] = []
    for path, entry in files.items():
        shown = PurePosixPath(*path.parts[1:]) if strip else path
        if not is_image_path(shown):
            continue
        target = _follow(path, entry, entries)
        if target is None or target.sparse is not None:
            lost.append(str(path))
        else:
            found[shown] = _Place(target.offset_data, target.size)
    if not found:
        raise no_images(name, _lost(lost) if lost else "")
    if lost:
        _logger.warning("%s: %s; they are left out", name, _lost(lost))
    paths = (PurePosixPath(*path.parts[1:]) if strip else path for path in entries)
    return found, {folder for path in paths if (folder := top_folder(path / "file")) is not None}


def _entries(name: str, descriptor: int) -> dict[PurePosixPath, tarfile.TarInfo]:
    """List the members of a tar by path; a path that was added twice means its last content, as in unpacking."""
    try:
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            stream.seek(0)
            first_block = stream.read(tarfile.BLOCKSIZE)
            stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                return {path: entry for entry in archive.getmembers() if (path := _normal(entry.name)).parts}
    except tarfile.TarError as error:
        if _looks_like_tar(first_block):
            raise _damaged(name) from error
        raise DataError(f"{name!r} is not a tar: give an image folder, or a .tar, .tar.gz or .tgz of one") from error


def _follow(
    path: PurePosixPath, entry: tarfile.TarInfo, entries: Mapping[PurePosixPath, tarfile.TarInfo]
) -> tarfile.TarInfo | None:
    """Return the plain file that a member is or leads to; None if there is none in the archive."""
    for _ in range(_MOST_LINKS):
        if entry.isreg():
            return entry
        if not entry.issym() and not entry.islnk():
            return None
        # A hard link names a member; a symbolic link starts from the folder that it lies in.
        path = _normal(entry.linkname if entry.islnk() else f"{path.parent}/{entry.linkname}")
        found = entries.get(path)
        if found is None or found is entry:
            return None
        entry = found
    return None


def _normal(path: str) -> PurePosixPath:
    """Return a path without ``.`` and, where they do not lead out of the archive, without ``..``."""
    return PurePosixPath(posixpath.normpath(path.lstrip("/") or "."))


def _lost(paths: list[str]) -> str:
    count = "1 image is a link" if len(paths) == 1 else f"{len(paths)} images are links"
    return f"{count} to what the archive does not hold, or no plain file, such as {paths[0]!r}: pack with tar -h"


def _looks_like_tar(block: bytes) -> bool:
    return block[257:262] == b"ustar"


def _damaged(name: str) -> DataError:
    return DataError(f"archive {name!r} is truncated or corrupt: replace it")
