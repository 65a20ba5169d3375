"""Weights files that were never downloaded whole, told apart before a library fails on them."""

from __future__ import annotations

import json
from pathlib import Path

from autoq.errors import ModelError

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pth", ".pth.tar")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header."""


def check_weight_files(name: str, folder: Path) -> None:
    """Refuse a folder with weights that are empty, cut off, or the pointer that Git LFS leaves in their place.

    Args:
        name: of the model, for the message.
        folder: whose files are looked at; not those in folders inside.

    Raises:
        ModelError: names the file and what to do.
    """
    for path in sorted(folder.iterdir()):
        if path.name.endswith(WEIGHT_SUFFIXES) and path.is_file():
            try:
                reason = _fault_of(path)
            except OSError as error:
                reason = f"cannot be read: {error.strerror}"
            if reason is not None:
                raise ModelError(f"model {name!r}: {path.name} {reason}.")


def _fault_of(path: Path) -> str | None:
    size = path.stat().st_size
    if not size:
        return "is empty: copy or download it again"
    with path.open("rb") as file:
        begin = file.read(len(_LFS_POINTER))
        if begin == _LFS_POINTER:
            return "is a Git LFS pointer, not the weights: run git lfs pull in its folder"
        if path.suffix != ".safetensors":
            return None
        length = int.from_bytes(begin[:_LENGTH_BYTES], "little")
        file.seek(_LENGTH_BYTES)
        header = file.read(length) if length <= size else b""
    whole = _LENGTH_BYTES + length + _data_bytes(header) if len(header) == length else None
    if whole is None or whole > size:
        expected = "" if whole is None else f" of {whole:,}"
        return f"is no whole safetensors file, it has {size:,}{expected} bytes: copy or download it again"
    return None


def _data_bytes(header: bytes) -> int:
    """Return the number of bytes after the header; 0 where it is no header, on which safetensors itself will fail."""
    try:
        entries = json.loads(header)
        return max((entry["data_offsets"][1] for key, entry in entries.items() if key != "__metadata__"), default=0)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return 0
