"""What recipes are scored and measured with, in the driver of a search and in its workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from autoq.calibration import Bank
from autoq.errors import RunError
from autoq.recipe import SiteConfig
from autoq.runs.images import CalibrationImages, LabelledImages
from autoq.runs.search.accuracy import AccuracyMeter
from autoq.runs.session import Session
from autoq.scoring import Evaluator
from autoq.scoring.accuracy import FullPrecision
from autoq.sensitivity.table import Option


@dataclass
class SearchState:
    """A model with its bank and images; what is made of them is made when it is first asked for.

    Attributes:
        session: the model, as it is quantized.
        bank: of the model.
        images: that calibrate.
        scoring: that score.
        open_labelled: opens the images with labels, or returns None.
        bank_directory: where the bank's owner saves it; None: this process is its owner.
        accuracy_seconds: that measuring a recipe on labelled images took in an earlier run, or None.
    """

    session: Session
    bank: Bank
    images: CalibrationImages
    scoring: CalibrationImages
    open_labelled: Callable[[], LabelledImages | None]
    bank_directory: str | os.PathLike[str] | None = None
    accuracy_seconds: float | None = None

    @cached_property
    def evaluator(self) -> Evaluator:
        """Scores recipes."""
        return Evaluator(self.session.model, self.bank, self.scoring.tensor, task=self.session.task)

    @cached_property
    def calibration_evaluator(self) -> Evaluator:
        """Scores recipes on the images that calibrate, a few at the end: nothing is kept for others."""
        return Evaluator(self.session.model, self.bank, self.images.tensor, cache_bytes=0, task=self.session.task)

    @cached_property
    def meter(self) -> AccuracyMeter | None:
        """Measures recipes on labelled images; None without any."""
        labelled = self.open_labelled()
        if labelled is None:
            return None
        return AccuracyMeter(self.evaluator, labelled, self.full_precision, self.accuracy_seconds)

    @cached_property
    def full_precision(self) -> FullPrecision:
        """The model's outputs on the labelled images."""
        return FullPrecision(self.session.model, self.session.task)

    def release(self) -> None:
        """Give back the memory that scoring recipes took."""
        for name in ("evaluator", "calibration_evaluator", "meter"):
            self.__dict__.pop(name, None)

    def require(self, options: Iterable[Option]) -> None:
        """Take options that this process has not solved from their owner's bank.

        Raises:
            RunError: they are not there.
            RunDirectoryError: the bank there was solved for something else.
        """
        wanted = list(options)
        if self.bank_directory is None or all(option in self.bank for option in wanted):
            return
        self.bank.load(self.bank_directory)
        if missing := [option for option in wanted if option not in self.bank]:
            site, operand, config = missing[0]
            raise RunError(
                f"the bank in {os.fspath(self.bank_directory)!r} has no {site}:{operand} at {config.to_json()} yet: "
                "does this machine see what the driver has written?"
            )

    def require_sites(self, sites: Mapping[str, SiteConfig]) -> None:
        """Take the options of a recipe, see :meth:`require`."""
        self.require((site, operand, config) for site, own in sites.items() for operand, config in own.items())
