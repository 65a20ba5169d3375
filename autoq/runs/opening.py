"""Opening a run: from settings to a model, its search space, its images and a directory that is held."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from autoq.calibration import Bank, CalibrationSettings
from autoq.calibration.bank.bank import Elsewhere
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.observers import OBSERVERS
from autoq.calibration.transforms.reparameterization import rewritable_norms
from autoq.events import PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.files import sha256_hex
from autoq.optimization.space import ResolvedSpace, SearchSpace, Target, load_space, load_target, resolve_space
from autoq.recipe import CalibrationReference, OperandConfig
from autoq.runs.directory import BaseSettingsDirectory, SettingsRecordT
from autoq.runs.images import CalibrationImages, LabelledImages, most_held_out
from autoq.runs.labels import check_named, warn_of_shared_images
from autoq.runs.reference import check_reference
from autoq.runs.session import Session
from autoq.runs.settings import CalibrationChoices
from autoq.runs.transforming import centre_keys_for, known_of, rescale_for, rotate_for

_RESCALED_FOR_BITS = 8
"""Zero points at which reparameterized LayerNorms are brought together: the finest of the usual widths suits all."""


@dataclass(frozen=True)
class GivenObjects:
    """What a caller has at hand, used in place of what settings name; settings still say what to call it.

    Attributes:
        session: the model, opened; None: as ``settings.model``.
        data: calibration images, as in ``Session.calibration_images``; None: ``settings.data``.
        eval_data: labelled images, as in ``Session.labelled_images``; None: those of the settings.
    """

    session: Session | None = None
    data: object = None
    eval_data: object = None

    def open_session(self, settings: CalibrationChoices, progress: Progress = ignore) -> Session:
        """Return the session that was given, or open the model that settings name; its task is that of the settings.

        Raises:
            ModelError: there is no such model or device.
            TraceError: the model cannot be traced.
        """
        progress(PhaseStarted("model", detail=settings.model))
        session = self.session
        if session is None:
            session = Session.open(settings.model, settings.pretrained, settings.device)
        return replace(session, task=settings.make_task()).adapted()

    def calibration_images(
        self, session: Session, settings: CalibrationChoices, count: int, progress: Progress = ignore, spare: int = 0
    ) -> CalibrationImages:
        """Load ``count`` of the images that were given or that settings name, chosen by the settings' seed.

        ``spare`` more follow, if there are so many.

        Raises:
            DataError: there are no such images, or one cannot be read.
        """
        progress(PhaseStarted("images", count, settings.data))
        data = settings.data if self.data is None else self.data
        return session.calibration_images(data, count, settings.seed, spare)

    def labelled_images(self, session: Session, name: str | None, required: bool = True) -> LabelledImages | None:
        """Open the labelled images that were given, or those called ``name``; None if there are none.

        Raises:
            DataError: there are no such images, or (if required) their labels are not the model's.
        """
        data = name if self.eval_data is None else self.eval_data
        return None if data is None else session.labelled_images(data, required=required)

    def check_named(self, settings: CalibrationChoices, eval_data: str | None) -> None:
        """Refuse names of images that cannot be opened, before the model is loaded.

        Raises:
            DataError: there are no such images.
        """
        data = settings.data if self.data is None else self.data
        labelled = eval_data if self.eval_data is None else self.eval_data
        check_named((data, "calibration"), (labelled, "evaluation"))

    def warn_of_shared_images(self, settings: CalibrationChoices, eval_data: str | None) -> None:
        """Say in a warning if labelled images are among those to calibrate on.

        Raises:
            DataError: there are no such images.
        """
        data = settings.data if self.data is None else self.data
        warn_of_shared_images(data, eval_data if self.eval_data is None else self.eval_data)


@dataclass(frozen=True)
class RunInputs:
    """What a run works on.

    Attributes:
        session: the model.
        space: the decisions that the search space leaves open for it.
        space_fingerprint: of the search space and the target.
        images: to calibrate on.
        scoring: to score recipes on; the same object where there are no others.
        labelled: to measure accuracy on, or None.
        given: from what they were made, for more images.
    """

    session: Session
    space: ResolvedSpace
    space_fingerprint: str
    images: CalibrationImages
    scoring: CalibrationImages
    labelled: LabelledImages | None = None
    given: GivenObjects = field(default_factory=GivenObjects)

    @property
    def held_out(self) -> CalibrationImages | None:
        """The images that score where they are others than those that calibrate."""
        return None if self.scoring is self.images else self.scoring


@contextmanager
def open_run(
    directory: BaseSettingsDirectory[SettingsRecordT],
    settings: CalibrationChoices,
    given: GivenObjects | None = None,
    progress: Progress = ignore,
    *,
    check: Callable[[Session, ResolvedSpace], object] = lambda *_: None,
    images: Callable[[], int] | None = None,
    eval_data: str | None = None,
    labels_required: bool = True,
    hold_out: bool = False,
) -> Iterator[tuple[RunInputs, SettingsRecordT | None]]:
    """Load what a run works on, and hold its directory for a ``with`` block; wrong input leaves nothing behind.

    Args:
        directory: of the run; made once all input is known to be good.
        settings: the run's.
        given: objects in place of names.
        progress: told what happens.
        check: called with the model and the space before images are loaded, to refuse what the run cannot do.
        images: gives the number of calibration images; None: ``settings.calib_images``.
        eval_data: name of labelled images, or None.
        labels_required: whether to refuse images without labels.
        hold_out: whether to score on other images than those that calibrate, if there are enough.

    Yields:
        What the run works on, and the record to go on from, or None for a fresh start.

    Raises:
        InputError: a setting is wrong, or the directory belongs to another run.
    """
    given = GivenObjects() if given is None else given
    space = load_space(settings.space)
    target = None if settings.target is None else load_target(settings.target)
    given.check_named(settings, eval_data)
    with directory.opened(directory.identity_of_settings(settings)) as enter:
        session = given.open_session(settings, progress)
        resolved = resolve_space(space, session.traced.sites, settings.overrides, target)
        check(session, resolved)
        labelled = given.labelled_images(session, eval_data, labels_required)
        given.warn_of_shared_images(settings, eval_data)
        count = settings.calib_images if images is None else images()
        spare = most_held_out(count) if hold_out else 0
        loaded = given.calibration_images(session, settings, count, progress, spare)
        calibrating, scoring = loaded.held_out(count) if hold_out else (loaded, loaded)
        record = enter()
        yield RunInputs(session, resolved, _fingerprint(space, target), calibrating, scoring, labelled, given), record


def _fingerprint(space: SearchSpace, target: Target | None) -> str:
    """Return what changes with a search space, and with the target that it is narrowed to."""
    return (
        space.fingerprint if target is None else sha256_hex([space.fingerprint.encode(), target.fingerprint.encode()])
    )


def open_bank(
    session: Session,
    images: CalibrationImages,
    settings: CalibrationChoices,
    directory: str | os.PathLike[str],
    progress: Progress = ignore,
    *,
    is_checked: bool = False,
) -> tuple[Session, Bank]:
    """Return the session, changed as is asked for, and its bank with what a directory has of it.

    The session's task is fitted to the images.

    Args:
        session: a model.
        images: to calibrate on.
        settings: how.
        directory: of the bank; it need not exist.
        progress: told when activations are observed.
        is_checked: whether another process has made sure that full precision tells these images apart.

    Raises:
        TaskError: the model has no output such as its task compares, or one that does not depend on the image.
        RunDirectoryError: the bank there was solved for something else.
    """
    observed = ObservedImages(len(images.tensor), progress)
    session = session.fitted(lambda: images)
    if not is_checked:
        check_reference(session, images)
    known = known_of(session, directory)
    if settings.rotate:
        session = rotate_for(session, lambda: images, known)
    if settings.centre_keys:
        session = centre_keys_for(session, lambda: images, known)
    # An option serves many recipes: it is solved with the rest of its site in full precision.
    by_output = OBSERVERS.lookup(settings.observer).by_layer_output
    fpcs = FpcsSettings(rounds=0) if by_output else FpcsSettings()
    calibration = CalibrationSettings(
        observer=settings.observer, seed=settings.seed, second_order=settings.second_order, fpcs=fpcs
    )
    if settings.reparameterize:
        norms = dict.fromkeys(rewritable_norms(session.traced), _RESCALED_FOR_BITS)
        session = rescale_for(session, norms, lambda: images, calibration, known)
    bank = session.bank(lambda: images, images.sha256, calibration, observed)
    bank.load(directory)
    return session, bank


class ObservedImages:
    """Reports the images that have been observed; a new pass over them starts the phase again."""

    def __init__(self, total: int, progress: Progress) -> None:
        """Report passes over ``total`` images."""
        self._total, self._progress, self._done = total, progress, 0

    def __call__(self, batch: int) -> None:
        """Count the images of a batch."""
        if self._done == 0:
            self._progress(PhaseStarted("capture", self._total))
        self._done += batch
        self._progress(PhaseAdvanced("capture", self._done))
        if self._done >= self._total:
            self._done = 0


def solve_bank(
    bank: Bank,
    options: Sequence[tuple[str, str, OperandConfig]],
    directory: str | os.PathLike[str],
    progress: Progress = ignore,
    elsewhere: Elsewhere | None = None,
) -> None:
    """Solve options ahead, saving what is solved from time to time.

    Args:
        bank: of a model.
        options: site, operand and configuration of each.
        directory: of the bank; it is made.
        progress: told what happens, as phase ``calibration``.
        elsewhere: solves them instead of this process.

    Raises:
        CalibrationError: an option does not fit its operand.
        OSError: the bank cannot be written.
    """
    progress(PhaseStarted("calibration", len(options)))
    bank.solve_into(directory, options, lambda done, _: progress(PhaseAdvanced("calibration", done)), elsewhere)


def calibration_reference(
    images: CalibrationImages, bank: Bank, scoring: CalibrationImages | None = None
) -> CalibrationReference:
    """Return a calibration as a recipe records it.

    Args:
        images: that the bank was solved on.
        bank: of the recipe's model.
        scoring: images after those, on which the recipe is scored; None: on the same.
    """
    return CalibrationReference(
        data=images.data,
        images=len(images.tensor),
        seed=images.seed,
        observer=bank.settings.observer,
        bank_fingerprint=bank.fingerprint,
        settings=bank.settings.to_json(),
        scoring_images=0 if scoring is None or scoring is images else len(scoring.tensor),
    )
