"""The base class of solvers, and what the solvers of one operand share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, TypeVar, cast

from torch import Tensor

from autoq.calibration.observers import OBSERVERS, BaseObserver, Bounds
from autoq.calibration.recording import OperandSample
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.solvers.rows import Rows, operand_rows
from autoq.calibration.solvers.sorted_rows import SortedRows
from autoq.calibration.solvers.tables import LinearTable
from autoq.graph.sites import Operand
from autoq.quantizers import BaseQuantizer
from autoq.recipe import OperandConfig

_T = TypeVar("_T")


class OperandData:
    """One operand's values, and what solvers compute from them once for all options.

    Attributes:
        operand: the operand.
        sample: a sample of its values; of a weight, all of them.
        settings: how parameters are chosen.
        observer: the settings' observer.
    """

    def __init__(self, operand: Operand, data: OperandSample | Tensor, settings: CalibrationSettings) -> None:
        """Compute nothing yet.

        Args:
            operand: the operand.
            data: the weight, or a sample of the activation.
            settings: how parameters are chosen.
        """
        self.operand = operand
        self.sample = _sample_of_weight(data) if isinstance(data, Tensor) else data
        if operand.name == "weight" and settings.weight_observer is not None:
            settings = replace(settings, observer=settings.weight_observer)
        self.settings = settings
        self.observer: type[BaseObserver] = OBSERVERS.lookup(settings.observer)
        self._cache: dict[tuple[object, ...], object] = {}

    def cached(self, key: tuple[object, ...], compute: Callable[[], _T]) -> _T:
        """Return what was computed under a key before, or compute it."""
        if key not in self._cache:
            self._cache[key] = compute()
        return cast(_T, self._cache[key])

    def rows(self, config: OperandConfig) -> Rows:
        """Return the values that share parameters, and the observer's bounds of each row."""
        key = ("rows", config.granularity, config.groups)
        return self.cached(key, lambda: operand_rows(self.operand, config, self.sample, self.settings))

    def candidates(self, rows: Rows) -> Bounds | None:
        """Return the ranges that the observer offers, each of shape (K, rows); None: only the observed one."""
        key = ("candidates", rows.shape)
        return self.cached(key, lambda: self.observer.candidates(rows.values, rows.lower, rows.upper))

    def linear_table(self, rows: Rows) -> LinearTable:
        """Return histograms of the rows."""
        return self.cached(("linear", rows.shape), lambda: LinearTable.of_rows(rows.values, self.settings.bins))

    def sorted_rows(self, rows: Rows) -> SortedRows:
        """Return the rows sorted."""
        return self.cached(("sorted", rows.shape), lambda: SortedRows.of_rows(rows.values))


class BaseSolver(ABC):
    """Chooses the parameters of one operand's quantizers of one scheme, at any option.

    Attributes:
        quantizer: the quantizer class whose schemes, and those of its subclasses without a solver of their own, it
            solves.
        data: the operand.
    """

    quantizer: ClassVar[type]

    def __init__(self, data: OperandData) -> None:
        """Solve nothing yet."""
        self.data = data

    @abstractmethod
    def solve(self, config: OperandConfig) -> BaseQuantizer:
        """Return the quantizer at one option.

        Raises:
            CalibrationError: the option does not fit the operand.
        """


def _sample_of_weight(weight: Tensor) -> OperandSample:
    """Make a weight its own sample; its bounds are found per row."""
    return OperandSample(weight.float(), weight.float(), weight.float(), None)
