"""A recipe whose operands are solved, and what it scores on its images."""

from __future__ import annotations

from dataclasses import dataclass

from autoq.calibration import Bank
from autoq.events import PhaseAdvanced, PhaseStarted, Progress
from autoq.recipe import Recipe, ScoreRecord
from autoq.runs.images import CalibrationImages, LabelledImages
from autoq.runs.session import Session
from autoq.scoring import Evaluator, measure_accuracy
from autoq.scoring.sources import QuantizerSource


@dataclass(frozen=True)
class CalibratedRecipe:
    """A recipe whose operands are solved, and what it is measured on.

    Attributes:
        session: the model, rescaled as the recipe says; its slots are filled and emptied by what is done with it.
        bank: of this session.
        recipe: of this session and bank; its score may be missing.
        images: that it was calibrated on.
        labelled: to measure accuracy on, or None.
        scoring: to score it on; None: those that it was calibrated on.
    """

    session: Session
    bank: Bank
    recipe: Recipe
    images: CalibrationImages
    labelled: LabelledImages | None = None
    scoring: CalibrationImages | None = None

    def score(self, source: QuantizerSource, progress: Progress) -> ScoreRecord:
        """Measure discrepancy on the images to score on, and accuracy on labelled ones.

        Where other images calibrated, the discrepancy on those is noted beside it.

        Args:
            source: gives the quantizers: the bank, or what was learned since.
            progress: told what happens, as phases ``score`` and ``accuracy``.

        Raises:
            NonFiniteError: the quantized model produces NaN or infinity.
        """
        model, images = self.session.model, (self.scoring or self.images).tensor
        progress(PhaseStarted("score", len(images)))
        evaluator = Evaluator(model, source, images, task=self.session.task)
        score = ScoreRecord(**vars(evaluator.evaluate(self.recipe.sites)))
        if self.scoring is not None:
            calibrating = Evaluator(model, source, self.images.tensor, task=self.session.task)
            kl_nats = calibrating.evaluate(self.recipe.sites).kl_nats
            score = score.model_copy(update={"calibration_kl_nats": kl_nats})
        progress(PhaseAdvanced("score", len(images)))
        if self.labelled is None:
            return score
        progress(PhaseStarted("accuracy", self.labelled.count))
        done = 0

        def on_measured(batch: int) -> None:
            nonlocal done
            done += batch
            progress(PhaseAdvanced("accuracy", done))

        accuracy = measure_accuracy(model, self.labelled.batches(), on_measured, task=evaluator.task)
        return score.with_metrics(accuracy.metrics, accuracy.images)
