"""Losses of quantizers that are one number (a base, a distance) and a scale: logarithmic and twin uniform ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from autoq.calibration.fpcs.binned_error import BinnedError
from autoq.calibration.fpcs.layer_error import QuadraticError, Rounder
from autoq.calibration.fpcs.search import Loss
from autoq.calibration.solvers.logarithmic import log_class
from autoq.calibration.solvers.twin_uniform import twin_class
from autoq.quantizers import BaseLogQuantizer, OperandLayout, quantizer_class
from autoq.recipe import OperandConfig

Unit = Callable[[float], Rounder]
"""From the number to the rounding at scale one."""


def scaled_loss(error: QuadraticError | BinnedError, unit: Unit, scale: Tensor) -> Loss:
    """Make the error of all rows, which share a number, a function of it and of a relative scale, each (1, n).

    Args:
        error: the quadratic form; for logarithmic schemes its values are shifted.
        unit: see ``Unit``.
        scale: of each row at relative scale one, of shape (R, 1).
    """

    def loss(number: Tensor, relative: Tensor) -> Tensor:
        roundings = [unit(value) for value in number[0].tolist()]
        return error.evaluate_scaled(roundings, (scale * relative).float()).sum(0, keepdim=True)

    return loss


def screening_losses(
    error: QuadraticError, unit: Unit, scale: Tensor, share: int, seed: int
) -> tuple[Loss | None, Loss | None]:
    """Make two cheaper losses that rank candidates: by the leading directions, and by no directions at all.

    Args:
        error: see :func:`scaled_loss`.
        unit: see there.
        scale: see there.
        share: 1 / ``share`` of the directions are used.
        seed: of the directions.

    Returns:
        None for what would not pay.
    """
    screened = error.screened(share, seed)
    if screened is None:
        return None, None
    binned = BinnedError.of(screened)
    if binned is None:
        return scaled_loss(screened, unit, scale), None
    return scaled_loss(binned, unit, scale), scaled_loss(binned.of_diagonal(), unit, scale)


def log_unit(config: OperandConfig, device: torch.device) -> Unit:
    """Make the roundings of a logarithmic scheme, by the numerator of the base; values are shifted."""
    return lambda numerator: _unit_quantizer(config, int(numerator), device).round_scaled


def twin_unit(config: OperandConfig, fine_sign: int, device: torch.device) -> Unit:
    """Make the roundings of ``twin_uniform`` or ``twin_uniform_sum``, by m.

    Args:
        config: bits and scheme.
        fine_sign: sign of the values in the fine range.
        device: of the values.
    """
    one = torch.ones(1, device=device)
    option = config.model_copy(update={"granularity": "tensor"})
    cls = twin_class(config.scheme)

    def unit(shift_bits: float) -> Rounder:
        quantizer = cls.with_scale(option, OperandLayout(1, -1), one, shift_bits, fine_sign)
        return lambda block: quantizer.fake_quantize(block, out=block)

    return unit


@lru_cache(maxsize=1024)
def _unit_quantizer(config: OperandConfig, base: int, device: torch.device) -> BaseLogQuantizer:
    """Make a logarithmic quantizer of scale one without shift."""
    option = config.model_copy(update={"granularity": "tensor", "log_base_numerator": None})
    qparams = {"scale": torch.ones(1), "shift": torch.zeros(1)}
    qparams |= dict.fromkeys(quantizer_class(config.scheme).fitted_fields, torch.tensor(float(base)))
    return log_class(config.scheme)(option, OperandLayout(1, -1), qparams).to(device)
