"""How quantizer parameters are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from pydantic import ConfigDict

from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.observers import OBSERVERS
from autoq.errors import CalibrationError, RecipeError
from autoq.validation import validate


@dataclass(frozen=True)
class CalibrationSettings:
    """Settings that every operand shares.

    Attributes:
        observer: how ranges are chosen. From all images, batch by batch, ``min_max`` takes the observed range, ``ema``
            the moving average of the batches' ranges, and ``percentile`` that of their quantiles, which cut the tails.
            By the squared error of the operand's sampled values, ``omse`` shrinks the observed range in steps of 1 %,
            ``best_percentile`` takes the best of three percentiles, and ``mse`` searches the range (and logarithm
            base) of all. ``fpcs`` searches by the layer's output, and as ``mse`` what has no output of its own.
            Weights are one batch.
        percentile: for ``percentile``: percent of the values kept below the upper bound, and above the lower one.
        averaging_constant: for ``ema`` and ``percentile``: weight of each batch after the first in the moving average.
        sample_images: images whose values are kept; minimum, maximum and moving averages are over all images.
        sample_elements: values kept per operand, about; bounds memory.
        sample_last_batch: whether the values are of the images of the last batch, however many, and not of the first.
        batch_images: images of a batch, which averages and the last batch depend on; None: as memory allows.
        shares_ranges: whether queries, keys and values, and what else products take of one linear layer's output, have
            the range of that output (at granularity ``tensor``), rather than one each.
        bins: resolution of the histograms on which squared errors are computed.
        seed: chooses which tokens are kept.
        inputs: operands are observed with earlier sites in ``full_precision``, or ``quantized`` as the recipe says,
            site after site in the order in which they run (RepQ-ViT). What reparameterized LayerNorms feed then keeps
            the scale and zero point that their factors were made for.
        include_zero: whether ranges of affine quantizers are widened to include zero, whose code lies in 0..2^bits − 1;
            else codes spread over the range as it is, and the zero point is any whole number.
        norm_observer: the observer by which channels get the ranges that factors of reparameterization are made of.
        weight_observer: the observer of weights; None: ``observer``.
        factor_observer: the observer of ranges with power-of-two factors; None: ``observer``.
        second_order: whether weights on equally spaced grids are rounded by the error of their layer's output (GPTQ)
            once their scales are chosen, rather than to nearest; up to 4 bits, scales are then improved too.
        fpcs: of the progressive search; see :class:`FpcsSettings`.

    Raises:
        CalibrationError: there is no such observer, ``percentile`` is not in 50..100, or ``averaging_constant`` not in
            0..1.
    """

    observer: str = "mse"
    percentile: float = 99.99
    averaging_constant: float = 0.01
    sample_images: int = 32
    sample_elements: int = 1 << 18
    sample_last_batch: bool = False
    batch_images: int | None = None
    shares_ranges: bool = False
    bins: int = 2048
    seed: int = 0
    inputs: Literal["full_precision", "quantized"] = "full_precision"
    include_zero: bool = True
    norm_observer: str = "min_max"
    weight_observer: str | None = None
    factor_observer: str | None = None
    second_order: bool = False
    fpcs: FpcsSettings = field(default_factory=FpcsSettings)

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        """Refuse unknown observers, and what would silently turn bounds around."""
        for observer in (self.observer, self.norm_observer, self.weight_observer, self.factor_observer):
            if observer is not None:
                OBSERVERS.lookup(observer)
        if self.batch_images is not None and self.batch_images < 1:
            raise CalibrationError(f"batch_images must be at least 1, got {self.batch_images}")
        if not 50 <= self.percentile <= 100:
            raise CalibrationError(f"percentile must be between 50 and 100, got {self.percentile:g}")
        if not 0 <= self.averaging_constant <= 1:
            raise CalibrationError(f"averaging_constant must be between 0 and 1, got {self.averaging_constant:g}")

    def identity(self) -> dict[str, Any]:
        """Return what a bank depends on: all settings, but for those that came later and have their defaults.

        So a bank of before these settings stays what it is, and a run that has it can be resumed.
        """
        return _without_later(asdict(self), asdict(type(self)()))

    def to_json(self) -> dict[str, Any]:
        """Return what differs from the defaults, but for ``observer`` and ``seed``, as recipes keep it."""
        own, default = asdict(self), asdict(type(self)())
        return {name: value for name, value in own.items() if name not in _APART and value != default[name]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Make settings from plain data; what is missing has its default.

        Raises:
            RecipeError: a setting does not exist or cannot have that value.
        """
        try:
            return validate(cls, dict(document), "calibration settings", RecipeError)
        except CalibrationError as error:
            raise RecipeError(f"calibration settings: {error}") from error


def _without_later(own: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _without_later(value, default[name]) if isinstance(value, dict) else value
        for name, value in own.items()
        if name not in _LATER or value != default[name]
    }


_APART = ("observer", "seed")
_LATER = frozenset({"sample_last_batch", "batch_images", "shares_ranges", "result", "tied_rows", "output_weights"})
"""Settings, also of FPCS, that banks of version 5 may lack; with their defaults, nothing is solved otherwise."""
