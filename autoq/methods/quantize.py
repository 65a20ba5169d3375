"""Quantize a model by a published method: a directory with the recipe and its bank."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from autoq.calibration import Bank
from autoq.cost import model_cost
from autoq.errors import RunDirectoryError
from autoq.events import PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.files import check_writable, make_writable
from autoq.methods._base import BaseMethod
from autoq.methods.bit_widths import BitWidths
from autoq.recipe import Recipe, ScoreRecord, SiteConfig
from autoq.scoring import Evaluator, measure_accuracy
from autoq.scoring.applied import options_of
from autoq.scoring.session import LabelledImages, Session


@dataclass(frozen=True)
class QuantizeSettings:
    """What to calibrate on and where to put it.

    Attributes:
        data: calibration images.
        images: how many; None: as many as the method's paper.
        seed: chooses images and tokens.
        eval_data: labelled images to measure accuracy on, or None.
        out: directory for ``recipe.json`` and ``bank/``.
    """

    data: str
    out: str | os.PathLike[str]
    images: int | None = None
    seed: int = 0
    eval_data: str | None = None


def quantize(
    session: Session, method: BaseMethod, bits: BitWidths, settings: QuantizeSettings, progress: Progress = ignore
) -> Recipe:
    """Make a method's recipe for a model, solve its parameters, measure it, and write ``recipe.json`` and ``bank/``.

    A bank of the same method, bits, model and images that is there already is used; a killed run goes on with what it
    had solved.

    Args:
        session: the model.
        method: the published method.
        bits: uniform widths.
        settings: images and directory.
        progress: told what happens.

    Returns:
        The recipe, as written.

    Raises:
        InputError: images cannot be had, or the directory cannot be written or has another bank.
        RunError: an operand cannot be calibrated, or the quantized model produces NaN.
    """
    folder = Path(settings.out)
    _refuse_unwritable(folder, check_writable)
    labelled = session.labelled_images(settings.eval_data) if settings.eval_data is not None else None
    count = settings.images or method.images
    progress(PhaseStarted("images", count, settings.data))
    images = session.calibration_images(settings.data, count, settings.seed)
    sites = method.sites(session.traced, bits)
    norms = method.reparameterized(session.traced, bits)
    _refuse_unwritable(folder, make_writable)  # wrong input leaves nothing behind: made once all of it is known good
    observed = _Observed(len(images.tensor), progress)
    session = session.rescaled(norms, lambda: images, folder / "bank", observed)
    bank = session.bank(lambda: images, images.sha256, method.settings(settings.seed), observed, sites)
    bank.load(folder / "bank")
    options = options_of(sites)
    progress(PhaseStarted("calibration", len(options)))
    bank.solve_into(folder / "bank", options, lambda done, _: progress(PhaseAdvanced("calibration", done)))
    recipe = Recipe(
        model=session.reference,
        sites=sites,
        reparameterized=norms,
        method=f"{method.name} {bits}",
        calibration=session.calibration_reference(images, bank),
        cost=model_cost(session.traced.sites, sites).record(),
        score=_score(session, bank, recipe_sites=sites, images=images.tensor, labelled=labelled, progress=progress),
    )
    recipe.save(folder / "recipe.json")
    return recipe


class _Observed:
    """Reports the images that have been observed; a new pass over them starts the phase again."""

    def __init__(self, total: int, progress: Progress) -> None:
        self._total, self._progress, self._done = total, progress, 0

    def __call__(self, batch: int) -> None:
        if self._done == 0:
            self._progress(PhaseStarted("capture", self._total))
        self._done += batch
        self._progress(PhaseAdvanced("capture", self._done))
        if self._done >= self._total:
            self._done = 0


def _score(
    session: Session,
    bank: Bank,
    recipe_sites: Mapping[str, SiteConfig],
    images: Tensor,
    labelled: LabelledImages | None,
    progress: Progress,
) -> ScoreRecord:
    """Discrepancy on the calibration images, accuracy on the labelled ones."""
    progress(PhaseStarted("score", len(images)))
    evaluator = Evaluator(session.model, bank, images)
    score = evaluator.evaluate(recipe_sites)
    progress(PhaseAdvanced("score", len(images)))
    if labelled is None:
        return ScoreRecord(**vars(score))
    progress(PhaseStarted("accuracy", labelled.count))
    done = 0

    def on_measured(batch: int) -> None:
        nonlocal done
        done += batch
        progress(PhaseAdvanced("accuracy", done))

    accuracy = measure_accuracy(session.model, labelled.batches(), on_measured)
    return ScoreRecord(
        **vars(score),
        top1_percent=accuracy.top1_percent,
        top5_percent=accuracy.top5_percent,
        labelled_images=accuracy.images,
    )


def _refuse_unwritable(folder: Path, check: Callable[[Path], None]) -> None:
    try:
        check(folder)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to directory {os.fspath(folder)!r}: {error.strerror}; choose another --out"
        ) from error
