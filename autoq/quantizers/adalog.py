"""Logarithmic quantization whose base is fitted to the data."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from autoq.quantizers._label import SchemeLabel
from autoq.quantizers._log_base import BaseLogQuantizer
from autoq.quantizers._logarithm import LogLevels, log_levels
from autoq.recipe import OperandConfig

RESOLUTION = 37
"""AdaLog's r: the base is 2^(q / r) with a whole number q."""
LEAST_NUMERATOR, GREATEST_NUMERATOR = 10, 137
"""The bases that are searched."""


def significand_steps(bits: int) -> int:
    """Return into how many steps of one the table T is rounded, which hardware keeps as integers."""
    return int(2 ** (bits + 1)) - 2


class AdaLogQuantizer(BaseLogQuantizer):
    """AdaLog's quantizer (Wu et al., "AdaLog: Post-Training Quantization for Vision Transformers", ECCV 2024).

    With base 2^(q / r), r = 37, and code i = round(−log2((x + shift) / scale) · r / q)::

        value = scale · 2^−floor(q · i / r) · T[i] − shift
        T[i]  = 2^−((q · i mod r) / r), rounded to a multiple of 1 / (2^(bits + 1) − 2)

    so that hardware needs a shift and a small table of integers.

    Attributes:
        log_base_numerator: q, one whole number; equal to ``config.log_base_numerator`` where that is given.
    """

    scheme: ClassVar[str] = "adalog"
    qparam_names: ClassVar[tuple[str, ...]] = ("scale", "shift", "log_base_numerator")
    config_fields: ClassVar[tuple[str, ...]] = ("granularity", "log_base_numerator", "overflow")
    fitted_fields: ClassVar[tuple[str, ...]] = ("log_base_numerator",)
    log_base_numerators: ClassVar[tuple[int, ...]] = tuple(range(LEAST_NUMERATOR, GREATEST_NUMERATOR + 1))
    log_base_denominator: ClassVar[int] = RESOLUTION
    log_base_numerator: Tensor

    @classmethod
    def label(cls, config: OperandConfig) -> SchemeLabel:
        """Mark the numerator of the base, ``q37``, or ``fit`` where calibration chooses it."""
        numerator = config.log_base_numerator
        if numerator is None:
            return SchemeLabel("fit", "fit: logarithmic, base fitted.", "fit")
        base = 2 ** (numerator / RESOLUTION)
        return SchemeLabel(f"q{numerator}", f"q26: logarithmic, base 2^(26/{RESOLUTION}).", f"{base:.2f}")

    @classmethod
    def levels_of_bases(cls, bits: int, count: int) -> Tensor:
        """Return the levels at scale one, significands rounded; of shape (128, count), float64."""
        exponent = torch.tensor(cls.log_base_numerators).unsqueeze(1) * torch.arange(count)  # (bases, levels)
        shift, remainder = exponent // RESOLUTION, exponent % RESOLUTION
        steps = significand_steps(bits)
        table = (torch.exp2(-remainder.double() / RESOLUTION) * steps).round() / steps
        levels: Tensor = table * torch.exp2(-shift.double())
        return levels

    @classmethod
    def _qparams_without_data(cls, config: OperandConfig) -> dict[str, Tensor]:
        """Return the configured base, or 2."""
        return {"log_base_numerator": torch.tensor(float(config.log_base_numerator or RESOLUTION))}

    @property
    def octaves(self) -> float:
        """The binary logarithm of the base, q / r."""
        return int(self.log_base_numerator) / RESOLUTION

    @property
    def significand_steps(self) -> int:
        """Two for each code but one."""
        return significand_steps(self.config.bits)

    def choose_levels(self, count: int) -> LogLevels:
        """Return the first levels of the base, significands rounded."""
        return log_levels(count, int(self.log_base_numerator), RESOLUTION, 1.0 / self.significand_steps)

    def _prepare(self) -> None:
        self._require(self.log_base_numerator.numel() == 1, "log_base_numerator must be one number")
        numerator = float(self.log_base_numerator)
        self._require(
            numerator == round(numerator) and LEAST_NUMERATOR <= numerator <= GREATEST_NUMERATOR,
            f"log_base_numerator must be a whole number in {LEAST_NUMERATOR}..{GREATEST_NUMERATOR}, got {numerator:g}",
        )
        self._require(
            self.config.log_base_numerator in (None, numerator),
            f"log_base_numerator is {numerator:g}, but the configuration says {self.config.log_base_numerator}",
        )
        super()._prepare()
