"""Images in a tar of an image folder, read in place."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import tempfile
import weakref
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from autoq.data._base import classes_of, decode, is_image_path, no_images
from autoq.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class _Member:
    path: PurePosixPath
    offset: int
    size: int


@dataclass(frozen=True)
class ArchiveSource:
    """Images of a tar, in the order and with the labels of the folder it was made of.

    A single folder at the top of the archive is that folder. The archive stays open as long as this object lives; it is
    read by position, so that threads can share it.

    Attributes:
        name: the string that opens this source again.
        members: place of each image in the archive.
        labels: class index of each image, None where it lies in no class folder.
        class_names: names of the folders that hold images, or None if there are none.
        descriptor: file descriptor of the uncompressed archive.
    """

    name: str
    members: tuple[_Member, ...]
    labels: tuple[int | None, ...]
    class_names: tuple[str, ...] | None
    descriptor: int

    @classmethod
    def open(cls, name: str, path: Path) -> ArchiveSource:
        """List the images of a tar; a compressed one is first unpacked to an unnamed temporary file.

        Raises:
            DataError: the file is not a tar, is damaged or has no image.
        """
        try:
            descriptor = _open_uncompressed(path)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _damaged(name) from error
        except OSError as error:
            raise DataError(f"cannot read {name!r}: {error.strerror or error}") from error
        try:
            members = _list_images(name, descriptor)
            class_names, labels = classes_of([member.path for member in members])
            source = cls(name, members, labels, class_names, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        weakref.finalize(source, os.close, descriptor)
        return source

    def __reduce__(self) -> tuple[Any, ...]:
        """Open the archive again in another process, or for a copy: the descriptor is this object's own."""
        return ArchiveSource.open, (self.name, Path(self.name).expanduser())

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.members)

    def load(self, index: int) -> Image.Image:
        """Decode one image.

        Raises:
            DataError: the image cannot be read.
        """
        member = self.members[index]
        content = os.pread(self.descriptor, member.size, member.offset)
        return decode(io.BytesIO(content), f"{self.name}/{member.path}")

    def label(self, index: int) -> int | None:
        """Return the index into ``class_names`` of one image, or None if it is not labelled."""
        return self.labels[index]


def _open_uncompressed(path: Path) -> int:
    with path.open("rb") as archive:
        if archive.read(len(_GZIP_MAGIC)) != _GZIP_MAGIC:
            return os.dup(archive.fileno())
    # Random access into a gzip stream would decompress it from the start for every image.
    with gzip.open(path) as stream, tempfile.TemporaryFile() as unpacked:
        shutil.copyfileobj(stream, unpacked)
        unpacked.flush()
        return os.dup(unpacked.fileno())


def _list_images(name: str, descriptor: int) -> tuple[_Member, ...]:
    try:
        with os.fdopen(os.dup(descriptor), "rb") as stream:
            stream.seek(0)
            first_block = stream.read(tarfile.BLOCKSIZE)
            stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                files = [entry for entry in archive.getmembers() if entry.isreg()]
    except tarfile.TarError as error:
        if _looks_like_tar(first_block):
            raise _damaged(name) from error
        raise DataError(f"{name!r} is not a tar: give an image folder, or a .tar, .tar.gz or .tgz of one") from error
    paths = [PurePosixPath(entry.name) for entry in files]
    if len({path.parts[0] for path in paths}) == 1 and all(len(path.parts) > 1 for path in paths):
        paths = [PurePosixPath(*path.parts[1:]) for path in paths]
    members = {  # a path that was added twice means its last content, as in unpacking
        path: _Member(path, entry.offset_data, entry.size)
        for path, entry in zip(paths, files, strict=True)
        if is_image_path(path)
    }
    if not members:
        raise no_images(name)
    return tuple(members[path] for path in sorted(members))


def _looks_like_tar(block: bytes) -> bool:
    return block[257:262] == b"ustar"


def _damaged(name: str) -> DataError:
    return DataError(f"archive {name!r} is truncated or corrupt: replace it")
