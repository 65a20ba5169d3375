"""What recipes are scored, measured and improved with, in the driver of a search and in its workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch

from autoq.calibration import Bank
from autoq.errors import RunError
from autoq.events import Progress, ignore
from autoq.recipe import SiteConfig
from autoq.runs.images import CalibrationImages, LabelledImages, to_learn_from
from autoq.runs.opening import RunInputs
from autoq.runs.search.accuracy import AccuracyMeter
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.settings import SearchSettings
from autoq.runs.session import Session
from autoq.scoring import Evaluator
from autoq.scoring.accuracy import FullPrecision
from autoq.sensitivity.table import Option


@dataclass
class SearchState:
    """A model with its bank and images; what is made of them is made when it is first asked for.

    Attributes:
        session: the model, as it is quantized.
        loaded: the model as it was loaded, before anything was folded into its weights; its task fitted.
        bank: of the model.
        images: that calibrate.
        scoring: that score; the same object where there are no others.
        open_labelled: opens the images with labels, or returns None.
        load_images: loads images to learn from, as ``autoq.runs.images.to_learn_from`` takes it.
        directory: of the search, as it is called here.
        is_owner: whether this process solves what the bank lacks and saves it; others read what its owner has saved.
        accuracy_seconds: that measuring a recipe on labelled images took in an earlier run, or None.
        progress: told what happens within a chunk.
        threads: of this machine, which its workers and their driver share; None: this process takes no part in that.
    """

    session: Session
    loaded: Session
    bank: Bank
    images: CalibrationImages
    scoring: CalibrationImages
    open_labelled: Callable[[], LabelledImages | None]
    load_images: Callable[[int, int], CalibrationImages]
    directory: SearchDirectory
    is_owner: bool = False
    accuracy_seconds: float | None = None
    progress: Progress = ignore
    threads: int | None = None
    _learned_from: dict[int, CalibrationImages] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of_driver(
        cls,
        inputs: RunInputs,
        loaded: Session,
        bank: Bank,
        directory: SearchDirectory,
        settings: SearchSettings,
        accuracy_seconds: float | None,
        progress: Progress,
    ) -> SearchState:
        """Return the state of the driver, which has opened all inputs and owns the bank; see the attributes."""

        def load_images(wanted: int, spare: int) -> CalibrationImages:
            return inputs.given.calibration_images(inputs.session, settings, wanted, progress, spare)

        return cls(
            session=inputs.session,
            loaded=loaded,
            bank=bank,
            images=inputs.images,
            scoring=inputs.scoring,
            open_labelled=lambda: inputs.labelled,
            load_images=load_images,
            directory=directory,
            is_owner=True,
            accuracy_seconds=accuracy_seconds,
            progress=progress,
            threads=torch.get_num_threads() * settings.processes if settings.processes > 1 else None,
        )

    @property
    def held_out(self) -> CalibrationImages | None:
        """The images that score where they are others than those that calibrate."""
        return None if self.scoring is self.images else self.scoring

    @cached_property
    def labelled(self) -> LabelledImages | None:
        """The images with labels; None without any."""
        return self.open_labelled()

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
        if self.labelled is None:
            return None
        return AccuracyMeter(self.evaluator, self.labelled, self.full_precision, self.accuracy_seconds)

    @cached_property
    def full_precision(self) -> FullPrecision:
        """The model's outputs on the labelled images."""
        return FullPrecision(self.session.model, self.session.task)

    @cached_property
    def loaded_full_precision(self) -> FullPrecision:
        """The same of the model as it was loaded, whatever is folded into its weights."""
        is_same = self.loaded.model is self.session.model
        return self.full_precision if is_same else FullPrecision(self.loaded.model, self.loaded.task)

    def release(self) -> None:
        """Give back the memory that scoring recipes took."""
        for name in ("evaluator", "calibration_evaluator", "meter", "loaded_full_precision"):
            self.__dict__.pop(name, None)

    def to_learn_from(self, count: int) -> CalibrationImages:
        """Load images to learn from, none of those that are held out; they are kept for the next recipe."""
        if count not in self._learned_from:
            self._learned_from[count] = to_learn_from(self.load_images, count, self.held_out)
        return self._learned_from[count]

    @contextmanager
    def side_by_side(self, count: int) -> Iterator[None]:
        """Use more threads in a ``with`` block that fewer workers of this machine are in than there are.

        Args:
            count: how many are.
        """
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(max(before, self.threads // count))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def require_labelled(self, is_wanted: bool = True) -> None:
        """Make sure of the images with labels, if the driver has some.

        Raises:
            RunError: they are not here.
        """
        if is_wanted and self.labelled is None:
            raise RunError("the labelled images that the driver has are not here")

    def require(self, options: Iterable[Option]) -> None:
        """Take options that this process has not solved from their owner's bank.

        Raises:
            RunError: they are not there.
            RunDirectoryError: the bank there was solved for something else.
        """
        wanted = list(options)
        if self.is_owner or all(option in self.bank for option in wanted):
            return
        self.bank.load(self.directory.bank)
        if missing := [option for option in wanted if option not in self.bank]:
            site, operand, config = missing[0]
            raise RunError(
                f"the bank in {str(self.directory.bank)!r} has no {site}:{operand} at {config.to_json()} yet: "
                "does this machine see what the driver has written?"
            )

    def require_sites(self, sites: Mapping[str, SiteConfig]) -> None:
        """Take the options of a recipe, see :meth:`require`."""
        self.require((site, operand, config) for site, own in sites.items() for operand, config in own.items())
