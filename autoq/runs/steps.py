"""Steps that quantizing by a method and reconstructing a recipe share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from autoq.errors import RunDirectoryError
from autoq.events import PhaseAdvanced, PhaseStarted, Progress
from autoq.graph.insert import QuantizedModel
from autoq.recipe import ScoreRecord, SiteConfig
from autoq.runs.images import LabelledImages
from autoq.scoring import Evaluator, measure_accuracy
from autoq.scoring.sources import QuantizerSource
from autoq.tasks import CLASSIFICATION, BaseTask


class Observed:
    """Reports the images that have been observed; a new pass over them starts the phase again."""

    def __init__(self, total: int, progress: Progress) -> None:
        """Passes are over ``total`` images."""
        self._total, self._progress, self._done = total, progress, 0

    def __call__(self, batch: int) -> None:
        """Count the images of a batch."""
        if self._done == 0:
            self._progress(PhaseStarted("capture", self._total))
        self._done += batch
        self._progress(PhaseAdvanced("capture", self._done))
        if self._done >= self._total:
            self._done = 0


def score_recipe(
    model: QuantizedModel,
    source: QuantizerSource,
    sites: Mapping[str, SiteConfig],
    images: Tensor,
    labelled: LabelledImages | None,
    progress: Progress,
    task: BaseTask = CLASSIFICATION,
) -> ScoreRecord:
    """Discrepancy on the calibration images, accuracy on the labelled ones.

    Args:
        model: the model that ``source`` is for.
        source: gives the quantizers.
        sites: the recipe's.
        images: of shape (N, C, H, W).
        labelled: or None.
        progress: told what happens.
        task: says what the model's output means.

    Raises:
        NonFiniteError: the quantized model produces NaN or infinity.
    """
    progress(PhaseStarted("score", len(images)))
    evaluator = Evaluator(model, source, images, task=task)
    score = evaluator.evaluate(sites)
    progress(PhaseAdvanced("score", len(images)))
    if labelled is None:
        return ScoreRecord(**vars(score))
    progress(PhaseStarted("accuracy", labelled.count))
    done = 0

    def on_measured(batch: int) -> None:
        nonlocal done
        done += batch
        progress(PhaseAdvanced("accuracy", done))

    accuracy = measure_accuracy(model, labelled.batches(), on_measured, task=evaluator.task)
    return ScoreRecord(**vars(score)).with_metrics(accuracy.metrics, accuracy.images)


def refuse_unwritable(folder: Path, check: Callable[[Path], None]) -> None:
    """Turn the complaint of ``check_writable`` or ``make_writable`` into the user's error.

    Raises:
        RunDirectoryError: names the directory.
    """
    try:
        check(folder)
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write to directory {os.fspath(folder)!r}: {error.strerror}; choose another --out"
        ) from error
