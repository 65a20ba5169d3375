"""Seeded subsets of a source, and their tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from autoq.data._base import ImageSource
from autoq.errors import DataError
from autoq.files import sha256_hex

if TYPE_CHECKING:
    import torch
    from PIL import Image

_MAX_THREADS = 8


def subset(source: ImageSource, count: int, seed: int) -> tuple[int, ...]:
    """Choose images by the first ``count`` places of a seeded permutation.

    A smaller subset is the beginning of a larger one with the same seed. Labels are not looked at.

    Args:
        source: where to choose from.
        count: how many images are wanted.
        seed: seed of the permutation.

    Returns:
        Distinct indices into ``source``: all of them, fewer than ``count``, if there are no more.

    Raises:
        DataError: ``count`` is below one.
    """
    return random_indices(len(source), count, seed)


def random_indices(available: int, count: int, seed: int) -> tuple[int, ...]:
    """Return the first ``count`` places of a seeded permutation of ``range(available)``.

    Raises:
        DataError: ``count`` is below one.
    """
    if count < 1:
        raise DataError(f"cannot take {count} images: ask for 1 or more")
    permutation: list[int] = np.random.default_rng(seed).permutation(available)[:count].tolist()
    return tuple(permutation)


def load_images(
    source: ImageSource, indices: Sequence[int], transform: Callable[[Image.Image], torch.Tensor]
) -> torch.Tensor:
    """Decode and transform images, several at a time.

    Args:
        source: where the images are.
        indices: which of them, in the order of the result.
        transform: from an image to a tensor ``(C, H, W)``, of one shape for all images.

    Returns:
        Tensor ``(N, C, H, W)`` in float32.

    Raises:
        DataError: an image cannot be read, ``count`` is below 1, or the tensors differ in shape.
    """
    import torch

    if not indices:
        raise DataError(f"no images of {source.name!r} were asked for: ask for 1 or more")
    with ThreadPoolExecutor(reading_threads(len(indices))) as pool:
        tensors = list(pool.map(lambda index: transform(source.load(index)).to(torch.float32), indices))
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) > 1:
        raise DataError(f"images of {source.name!r} become tensors of shapes {sorted(shapes)}: resize them to one")
    return torch.stack(tensors)


def reading_threads(images: int) -> int:
    """Return in how many threads that many images are read."""
    return min(_MAX_THREADS, os.cpu_count() or 1, images)


def fingerprint(tensor: torch.Tensor) -> str:
    """Return the hex SHA-256 of a tensor's dtype, shape and values; the same in every process."""
    import torch

    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return sha256_hex([f"{tensor.dtype} {tuple(tensor.shape)}\n".encode(), values.tobytes()])
