"""What the progressive search is given for PTQ4ViT's twin uniform quantizers: a coarse scale and a distance.

Yuan et al., "PTQ4ViT: Post-Training Quantization for Vision Transformers with Twin Uniform Quantization", ECCV 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor

from autoq.calibration.fpcs.layer_error import QuadraticError
from autoq.calibration.fpcs.scaled_loss import scaled_loss, screening_losses, twin_unit
from autoq.calibration.fpcs.search import Grid, Pair, Problem, fixed_axis, log_grid
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.quantizers import BaseQuantizer
from autoq.quantizers.twin_uniform import MAX_SHIFT_BITS
from autoq.recipe import OperandConfig

_FURTHER_SHIFTS = 5
"""Beyond ``bits``: GELU outputs reach some hundred times as far up as down."""
_PUBLISHED_SOFTMAX_SHIFTS = 20
_GELU_MINIMUM = 0.16997124254703522
"""How far down GELU reaches, which the fine range covers in the authors' code."""


def twin_problem(
    config: OperandConfig,
    error: QuadraticError,
    observed: BaseQuantizer,
    incumbent: BaseQuantizer | None,
    narrow: float,
    settings: FpcsSettings,
    seed: int,
) -> Problem:
    """Set up the search of m and of a scale relative to the observed one.

    Args:
        config: of scheme ``twin_uniform`` or ``twin_uniform_sum``.
        error: to minimise; its rows share m.
        observed: the quantizer of the observed range.
        incumbent: the quantizer to be beaten; None: the observed one.
        narrow: a quantile of the positive values, which the least scale covers.
        settings: of the search.
        seed: of the screening.
    """
    qparams = observed.qparams()
    scale, fine_sign = qparams["scale"].reshape(-1, 1), int(qparams["fine_sign"])
    before = (incumbent or observed).qparams()
    start = (before["shift_bits"].reshape(1, 1), before["scale"].reshape(-1, 1)[:1] / scale[:1])
    unit = twin_unit(config, fine_sign, scale.device)
    loss = scaled_loss(error, unit, scale)
    screen, coarse = screening_losses(error, unit, scale, settings.screening, seed)
    if settings.twin_scales == "published" and config.bits > 1:
        grid = _published_grid(config.bits, scale, fine_sign, float(error.values.max()), settings)
        return Problem(grid, (grid.first[:, :1], grid.second[:, :1]), loss, screen, coarse)
    shifts = torch.arange(1.0 if config.bits == 1 else config.bits + _FURTHER_SHIFTS + 1, device=scale.device)
    magnitudes = max(2 ** (config.bits - 1) - 1, 1)
    grid = log_grid(float(narrow / magnitudes / scale.max()), 1.0, shifts, settings)
    return Problem(grid, start, loss, screen, coarse)


def _published_grid(bits: int, scale: Tensor, fine_sign: int, greatest: float, settings: FpcsSettings) -> Grid:
    """Combine every m with the one scale that the authors' code gives it.

    After softmax the coarse range reaches 1. After GELU the fine step is 0.16997 / 2^(bits − 1), and coarse ones are
    spread over ``settings.spans`` of what covers the greatest value: any multiple, and not only powers of two (§3.1).

    Args:
        bits: code width, 2 or more.
        scale: coarse steps of the observed range, of shape (R, 1).
        fine_sign: sign of the values in the fine range.
        greatest: value of all.
        settings: number of candidates and spans.
    """
    codes = 2 ** (bits - 1)
    if fine_sign > 0:
        shifts = torch.arange(float(_PUBLISHED_SOFTMAX_SHIFTS), device=scale.device)
        steps = torch.full_like(shifts, 1 / (codes - 1))
    else:
        least, most = settings.spans or (1.0, 1.0)
        shares = torch.linspace(least, most, settings.candidates, dtype=torch.float64, device=scale.device)
        fine = _GELU_MINIMUM / codes
        steps = (shares * greatest / (codes - 0.5)).clamp(min=fine)
        shifts = (steps / fine).log2().clamp(max=MAX_SHIFT_BITS).float()
    pair: Pair = (shifts.unsqueeze(0), (steps / scale.max()).float().unsqueeze(0))
    return Grid(*pair, fixed_axis(scale.device), fixed_axis(scale.device))
