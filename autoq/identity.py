"""What results depend on: told apart by a fingerprint, and described where it differs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from autoq.files import sha256_hex

if TYPE_CHECKING:
    from torch import Tensor


def fingerprint_of(description: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that change when anything in a description, which is plain JSON, does.

    >>> fingerprint_of({"seed": 0, "bits": [4, 8]}) == fingerprint_of({"bits": (4, 8), "seed": 0})
    True
    """
    return sha256_hex([json.dumps(description, sort_keys=True).encode()])[:16]


def tensor_chunks(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[bytes]:
    """Yield what tells named tensors apart, to be hashed: names, dtypes, shapes and values.

    >>> import torch
    >>> next(tensor_chunks([("bias", torch.zeros(2, 3))])).strip()
    b'bias torch.float32 (2, 3)'
    """
    import torch

    for name, tensor in tensors:
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def describe_changes(old: Mapping[str, Any], new: Mapping[str, Any], keys: Iterable[str] | None = None) -> str:
    """Describe what differs between two descriptions, which are plain JSON; an empty string where nothing does.

    Of objects that both have, only the entries that differ are named.

    Args:
        old: of what is there.
        new: of what is wanted.
        keys: those that are compared; None: those of ``new``.

    >>> describe_changes({"seed": 0, "bits": [4]}, {"seed": 1, "bits": (4,)})
    'seed (was 0, is 1)'
    >>> describe_changes({"fpcs": {"steps": 4, "rounds": 3}}, {"fpcs": {"steps": 4, "rounds": 2}})
    'fpcs.rounds (was 3, is 2)'
    """
    plain = json.loads(json.dumps(dict(new)))  # as it comes back from a file: tuples are lists there
    compared = plain if keys is None else keys
    return ", ".join(change for key in compared for change in _changes(key, old.get(key), plain.get(key)))


def _changes(name: str, old: object, new: object) -> Iterator[str]:
    """Yield what differs in an entry, or in the entries of an object."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            yield from _changes(f"{name}.{key}", old.get(key), new.get(key))
    elif old != new:
        yield f"{name} (was {_short(old)}, is {_short(new)})"


def _short(value: object) -> str:
    """Shorten what nobody reads to its end: the digest of a file."""
    return repr(value[:12] if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40,}", value) else value)
