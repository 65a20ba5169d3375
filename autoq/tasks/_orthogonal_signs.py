"""Random signs for estimators of traces and quadratic forms (Hutchinson, Communications in Statistics 19, 1990)."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


class OrthogonalSigns:
    """Draws random signs, image after image, of which those of an image's K vectors are as orthogonal as can be.

    The same random signs for all K, times the rows of a Hadamard matrix whose columns go to the elements in an order
    that is given: any K elements that follow each other in it (K a power of two) get different columns, so that the
    mean of the K outer products is exact among them.
    """

    def __init__(self, count: int, seed: int, first: int = 0) -> None:
        """Draw ``count`` vectors for each image, K.

        Args:
            count: K.
            seed: of the signs.
            first: number of the first image; an image's signs depend on the seed and its number alone.
        """
        self._seed, self._next = seed, first
        self._order = 1 << (count - 1).bit_length()
        rows, columns = torch.arange(count).unsqueeze(1), torch.arange(self._order)
        ones = torch.stack([(rows & columns) >> bit & 1 for bit in range(self._order.bit_length())])
        self._hadamard = (1 - 2 * (ones.sum(0) % 2)).float()  # (K, order)

    def draw(self, rank: Tensor) -> Tensor:
        """Draw the signs of some images.

        Args:
            rank: of each element along the last axis among those of its position, from 0; of shape (N, ..., elements).

        Returns:
            Of shape (K, N, ..., elements), float32.
        """
        drawn = [self._drawn(rank.shape[1:]) for _ in rank]
        signs, shift = (
            torch.stack(each).to(rank.device) for each in zip(*drawn, strict=True)
        )  # (N, ..., elements | 1)
        # Shifted, since else the first elements of all positions had the same column.
        rows = self._hadamard.to(rank.device)[:, (rank % self._order) ^ shift]  # (K, N, ..., elements)
        return (2 * signs - 1) * rows

    def _drawn(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Draw the bits of the next image's signs, of a shape, and the shift of each position."""
        # By images, so that it matters neither how they are divided into batches nor what computes with them.
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self._seed} {self._next}".encode()))
        self._next += 1
        bits = torch.randint(0, 2, shape, generator=generator)
        return bits, torch.randint(0, self._order, (*shape[:-1], 1), generator=generator)
