"""How quantizer parameters are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Observer = Literal["mse", "min_max", "percentile"]
OBSERVERS: tuple[Observer, ...] = get_args(Observer)


@dataclass(frozen=True)
class CalibrationSettings:
    """Settings that every operand shares.

    Attributes:
        observer: ``min_max`` takes the observed range, ``percentile`` cuts its tails, ``mse`` searches the range (and
            logarithm base) of least squared error on the operand itself.
        percentile: for ``percentile``: percent of the values kept below the upper bound, and above the lower one.
        sample_images: images whose values are kept; minimum and maximum are over all images.
        sample_elements: values kept per operand, about; bounds memory.
        bins: resolution of the histograms on which squared errors are computed.
        seed: chooses which tokens are kept.
    """

    observer: Observer = "mse"
    percentile: float = 99.99
    sample_images: int = 32
    sample_elements: int = 1 << 18
    bins: int = 2048
    seed: int = 0
