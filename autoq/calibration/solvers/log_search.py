"""The logarithm base and scale of least squared error, over all of them at once."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from autoq.calibration.solvers.tables import LogTable
from autoq.quantizers.adalog import GREATEST_NUMERATOR, LEAST_NUMERATOR, RESOLUTION
from autoq.recipe import OperandConfig

NUMERATORS = tuple(range(LEAST_NUMERATOR, GREATEST_NUMERATOR + 1))
"""AdaLog's 128 bases."""
SCALES = tuple(0.9**power for power in range(16))
"""Candidates, relative to the greatest value."""
_LOG2_OF_BASE = {"log2": 1.0, "log_sqrt2": 0.5}


def log_errors(table: LogTable, scales: Tensor, config: OperandConfig) -> Tensor:
    """Squared errors at every base of a logarithmic scheme.

    Args:
        table: of the shifted values.
        scales: K candidates a row, of shape (rows, K).
        config: scheme, bits and overflow.

    Returns:
        Of shape (bases, rows, K): the bases ``NUMERATORS`` for ``adalog``, one for other schemes.
    """
    count = 2**config.bits - (config.overflow == "zero_code")
    # Levels below the histogram are as good as zero; every base of adalog reaches its end within these.
    if config.scheme == "adalog":
        octaves = torch.tensor(NUMERATORS, dtype=torch.float64) / RESOLUTION
        values = _adalog_values(config.bits, min(count, int(table.octaves / octaves[0]) + 2))
    else:
        octaves = torch.tensor([_LOG2_OF_BASE[config.scheme]], dtype=torch.float64)
        codes = torch.arange(min(count, int(table.octaves / octaves[0]) + 2), dtype=torch.float64)
        values = torch.exp2(-octaves.unsqueeze(1) * codes)
    device = scales.device
    return table.log_errors(scales, octaves.to(device), values.to(device))


@lru_cache(maxsize=32)
def _adalog_values(bits: int, count: int) -> Tensor:
    """Levels of ``AdaLogQuantizer`` at scale one, of shape (bases, count)."""
    exponent = torch.tensor(NUMERATORS).unsqueeze(1) * torch.arange(count)
    shift, remainder = exponent // RESOLUTION, exponent % RESOLUTION
    steps = 2 ** (bits + 1) - 2
    table = (torch.exp2(-remainder.double() / RESOLUTION) * steps).round() / steps
    values: Tensor = table * torch.exp2(-shift.double())
    return values
