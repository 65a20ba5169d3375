"""Checks before images are used: that files are images, and that two sources have none in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from autoq.data._base import ImageSource
from autoq.data._files import BaseFileSource
from autoq.data.digits import DigitsSource
from autoq.data.hfds import HfdsSource
from autoq.data.loading import reading_threads
from autoq.data.shapes import ShapesSource
from autoq.errors import DataError
from autoq.files import sha256_hex


def check_headers(source: ImageSource, indices: Sequence[int]) -> None:
    """Check that files begin like images, without decoding them; sources that have no files pass.

    Raises:
        DataError: some do not; names the first, and says how many there are.
    """
    if not isinstance(source, BaseFileSource) or not indices:
        return

    def complaint(index: int) -> DataError | None:
        try:
            source.check(index)
        except DataError as error:
            return error
        return None

    with ThreadPoolExecutor(reading_threads(len(indices))) as pool:
        found = [error for error in pool.map(complaint, indices) if error is not None]
    if found:
        more = f" ({len(found) - 1} more cannot be read either)" if len(found) > 1 else ""
        raise DataError(f"{found[0]}{more}") from found[0]


def shared_images(source: ImageSource, other: ImageSource) -> int:
    """Count the images of ``source`` that ``other`` has too, whatever their names; files by their content.

    Only files of equal length are read. Sources of different kinds are not compared.
    """
    if isinstance(source, BaseFileSource) and isinstance(other, BaseFileSource):
        return _shared_files(source, other)
    if isinstance(source, DigitsSource) and isinstance(other, DigitsSource):
        return len({*source.indices} & {*other.indices})
    if isinstance(source, ShapesSource) and isinstance(other, ShapesSource):
        return len(source) if source.split == other.split else 0
    same = isinstance(source, HfdsSource) and isinstance(other, HfdsSource) and source.split == other.split
    return len(source) if same else 0


def _shared_files(source: BaseFileSource, other: BaseFileSource) -> int:
    lengths: dict[int, list[int]] = defaultdict(list)
    for index in range(len(other)):
        lengths[_length(other, index)].append(index)
    hashes: dict[int, set[str]] = {}
    shared = 0
    for index in range(len(source)):
        length = _length(source, index)
        if length < 0 or length not in lengths:
            continue
        if length not in hashes:
            hashes[length] = {_content(other, each) for each in lengths[length]}
        shared += _content(source, index) in hashes[length]
    return shared


def _length(source: BaseFileSource, index: int) -> int:
    """Return the number of bytes of a file, or -1 where it is not there any more."""
    try:
        return source.size(index)
    except OSError:
        return -1


def _content(source: BaseFileSource, index: int) -> str:
    """Return a hash of a file; of one that cannot be read its name, which is nobody else's."""
    try:
        with source.open_file(index) as stream:
            return sha256_hex([stream.read()])
    except OSError:
        return source.where(index)
