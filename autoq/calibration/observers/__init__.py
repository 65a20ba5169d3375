"""Observers: from batches of an operand to its bounds, in memory that does not grow with the batches.

To add an observer, write a subclass of :class:`BaseObserver` in a file of its own and add it to ``OBSERVERS`` below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoq.calibration.observers._base import BaseObserver, Bounds
from autoq.calibration.observers.best_percentile import BestPercentileObserver
from autoq.calibration.observers.ema import EmaObserver
from autoq.calibration.observers.fpcs import FpcsObserver
from autoq.calibration.observers.min_max import MinMaxObserver
from autoq.calibration.observers.mse import MseObserver
from autoq.calibration.observers.omse import OmseObserver
from autoq.calibration.observers.percentile import PercentileObserver
from autoq.errors import CalibrationError
from autoq.quantizers import OperandLayout
from autoq.registry import Registry

if TYPE_CHECKING:
    from autoq.calibration.settings import CalibrationSettings

OBSERVERS: Registry[type[BaseObserver]] = Registry(
    "observer",
    CalibrationError,
    {
        cls.name: cls
        for cls in (
            MseObserver,
            MinMaxObserver,
            EmaObserver,
            PercentileObserver,
            OmseObserver,
            BestPercentileObserver,
            FpcsObserver,
        )
    },
)
"""Observer classes by the name that ``--observer`` takes."""


def create_observers(layout: OperandLayout, settings: CalibrationSettings) -> dict[str, BaseObserver]:
    """Make, by granularity, the observers that are needed beside the range over all images; most need none."""
    cls = OBSERVERS.lookup(settings.observer)
    if not cls.needs_each_granularity:
        return {}
    axes: dict[str, tuple[int, ...]] = {"tensor": (), "channel": (layout.channel_axis,)}
    if layout.head_axis is not None:
        axes["head"] = (layout.head_axis,)
    return {granularity: cls.from_settings(kept, settings) for granularity, kept in axes.items()}


__all__ = [
    "OBSERVERS",
    "BaseObserver",
    "BestPercentileObserver",
    "Bounds",
    "EmaObserver",
    "FpcsObserver",
    "MinMaxObserver",
    "MseObserver",
    "OmseObserver",
    "PercentileObserver",
    "create_observers",
]
