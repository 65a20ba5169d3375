"""A recipe whose operands are solved, and what it scores on its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autoq.calibration import Bank
from autoq.calibration.transforms.integer_operations import integer_operations
from autoq.events import PhaseAdvanced, PhaseStarted, Progress
from autoq.recipe import Recipe, ScoreRecord
from autoq.runs.images import CalibrationImages, LabelledImages
from autoq.runs.session import Session
from autoq.scoring import Evaluator
from autoq.scoring.accuracy import FullPrecision, measure_beside_full_precision
from autoq.scoring.solved_operands import SolvedOperands, read_operands
from autoq.scoring.sources import QuantizerSource


@dataclass(frozen=True)
class CalibratedRecipe:
    """A recipe whose operands are solved, and what it is measured on.

    Attributes:
        session: the model, rescaled as the recipe says; its slots are filled and emptied by what is done with it.
        operands: of the recipe.
        origin: changes when the operands do: the fingerprint of their bank, or the SHA-256 of their file.
        recipe: of this session; its score may be missing.
        images: that it was calibrated on.
        labelled: to measure accuracy on, or None.
        scoring: to score it on; None: those that it was calibrated on.
        full_precision: on the labelled images; None: of this session's model, computed beside the recipe.
    """

    session: Session
    operands: SolvedOperands
    origin: str
    recipe: Recipe
    images: CalibrationImages
    labelled: LabelledImages | None = None
    scoring: CalibrationImages | None = None
    full_precision: FullPrecision | None = None

    @classmethod
    def from_bank(
        cls,
        session: Session,
        bank: Bank,
        recipe: Recipe,
        images: CalibrationImages,
        labelled: LabelledImages | None = None,
        scoring: CalibrationImages | None = None,
    ) -> CalibratedRecipe:
        """Take the operands of a recipe from a bank of the session, which solves those that it does not have.

        Raises:
            CalibrationError: an option does not fit its operand.
        """
        operands = SolvedOperands.from_bank(bank, recipe.sites)
        return cls(session, operands, bank.fingerprint, recipe, images, labelled, scoring)

    @classmethod
    def from_file(
        cls,
        session: Session,
        recipe: Recipe,
        images: CalibrationImages,
        labelled: LabelledImages | None = None,
        scoring: CalibrationImages | None = None,
    ) -> CalibratedRecipe:
        """Take the operands of a finished or reconstructed recipe, of this session, from the file beside it.

        Raises:
            RecipeError: the file is missing, damaged, or another model's.
        """
        assert recipe.solved is not None  # noqa: S101
        found = read_operands((recipe.folder or Path()) / recipe.solved.file, session.model)
        return cls(session, found.operands, found.sha256, recipe, images, labelled, scoring)

    def operations(self) -> dict[str, nn.Module]:
        """Return the integer LayerNorms and softmaxes of the recipe, by site.

        Raises:
            RecipeError: the recipe's schemes do not fit together.
        """
        quantizers = self.operands.quantizers
        return integer_operations(
            self.session.traced, self.recipe.sites, lambda site, operand, _: quantizers[site, operand]
        )

    def identity(self, images: CalibrationImages) -> dict[str, Any]:
        """Return all that the result of work on the recipe depends on, but for settings; plain JSON.

        Args:
            images: that are worked on.
        """
        session = self.session
        changes = {"rotated": dict(session.rotated), "centred": list(session.folded.centres)}
        return {
            "recipe_sha256": self.recipe.content_hash,
            "weights_sha256": self.session.loaded.weights_sha256,
            "bank_fingerprint": self.origin,
            "images_sha256": images.sha256,
            **{name: value for name, value in changes.items() if value},
        }

    def score(self, source: QuantizerSource, progress: Progress) -> ScoreRecord:
        """Measure discrepancy on the images to score on, and accuracy on labelled ones, beside full precision.

        Where other images calibrated, the discrepancy on those is noted beside it.

        Args:
            source: gives the quantizers: the bank, or what was learned since.
            progress: told what happens, as phases ``score`` and ``accuracy``.

        Raises:
            NonFiniteError: the quantized model produces NaN or infinity.
        """
        model, images = self.session.model, (self.scoring or self.images).tensor
        progress(PhaseStarted("score", len(images)))
        evaluator = Evaluator(model, source, images, cache_bytes=0, task=self.session.task)
        score = ScoreRecord(**vars(evaluator.evaluate(self.recipe.sites)))
        if self.scoring is not None:
            calibrating = Evaluator(model, source, self.images.tensor, cache_bytes=0, task=self.session.task)
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

        full, accuracy, apart = measure_beside_full_precision(
            model,
            source,
            self.recipe.sites,
            self.labelled.batches(),
            on_measured,
            task=evaluator.task,
            full_precision=self.full_precision,
        )
        labels_by = self.labelled.labels_by
        return score.with_metrics(accuracy.metrics, accuracy.images, labels_by, full.metrics, apart.kl_nats)
