"""Random orthogonal matrices, each a function of its width and a seed."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def head_matrix(width: int, seed: int) -> Tensor:
    """Make an orthogonal matrix for the channels of attention heads.

    A Hadamard matrix of random signs where there is one of this width (QuaRot, arXiv 2404.00456, section 3), which
    spreads an outlier evenly over all channels; else uniformly random.

    Args:
        width: channels of a head.
        seed: of the signs.

    Returns:
        Shape (width, width), double precision.

    >>> (head_matrix(4, 0).abs() == 0.5).all().item()
    True
    """
    generator = _generator(width, seed)
    hadamard = hadamard_matrix(width)
    if hadamard is None:
        return _random_orthogonal(width, generator)
    signs = 2.0 * torch.randint(0, 2, (width,), generator=generator) - 1
    matrix: Tensor = hadamard * signs / width**0.5
    return matrix


def stream_matrix(width: int, seed: int) -> Tensor:
    """Make an orthogonal matrix that leaves the vector of ones alone, so that LayerNorm commutes with it.

    Q = P diag(1, R) P, where R is uniformly random and P reflects the first axis onto the direction of ones. Mean and
    variance of the channels stay what they are: no layer needs centring, as in SliceGPT (arXiv 2401.15024, section 3).

    Args:
        width: channels of the stream, at least 2.
        seed: of R.

    Returns:
        Shape (width, width), double precision.

    >>> torch.allclose(stream_matrix(6, 0).sum(1), torch.ones(6, dtype=torch.float64))
    True
    """
    inner = torch.eye(width, dtype=torch.float64)
    inner[1:, 1:] = _random_orthogonal(width - 1, _generator(width, seed))
    normal = torch.full((width,), -(width**-0.5), dtype=torch.float64)
    normal[0] += 1
    reflection = torch.eye(width, dtype=torch.float64) - 2 * torch.outer(normal, normal) / normal.square().sum()
    return reflection @ inner @ reflection


def hadamard_matrix(width: int) -> Tensor | None:
    """Make a matrix of ±1 with orthogonal rows, by Sylvester's doubling of one of Paley's.

    Args:
        width: rows; a power of two, or 2^k (q + 1) with a prime q ≡ 3 (mod 4): 12, 20, 24, 40, 44, 48, 60, 72, 80, 96.

    Returns:
        Shape (width, width), double precision; None where this construction knows none.

    >>> hadamard_matrix(2).tolist()
    [[1.0, 1.0], [1.0, -1.0]]
    """
    if width == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if width % 4 == 0 and width & (width - 1) and _is_prime(width - 1):
        return _paley(width - 1)
    half = hadamard_matrix(width // 2) if width % 2 == 0 else None
    return None if half is None else torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), half)


def _paley(prime: int) -> Tensor:
    """Make Paley's first Hadamard matrix from the squares modulo a prime q ≡ 3 (mod 4), of shape (q + 1, q + 1)."""
    squares = torch.full((prime,), -1.0, dtype=torch.float64)
    squares[[number * number % prime for number in range(1, prime)]] = 1
    squares[0] = 0
    numbers = torch.arange(prime)
    skew = torch.zeros(prime + 1, prime + 1, dtype=torch.float64)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = squares[(numbers.unsqueeze(1) - numbers) % prime]
    return skew + torch.eye(prime + 1, dtype=torch.float64)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _random_orthogonal(width: int, generator: torch.Generator) -> Tensor:
    """Draw from the Haar measure: the Q of a normal matrix's QR decomposition, R's diagonal made positive."""
    q, r = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    orthogonal: Tensor = q * r.diagonal().sign()
    return orthogonal


def _generator(width: int, seed: int) -> torch.Generator:
    # Neighbouring seeds must not give neighbouring states; of a CPU generator's seed, only 32 bits count.
    return torch.Generator().manual_seed(zlib.crc32(f"{width} {seed}".encode()))
