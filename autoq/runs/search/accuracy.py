"""Accuracy on labelled images, discrepancy on the same, how long that takes, and of which trials it is measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from autoq.optimization.trials import EvaluatedTrial, chosen_trials, evenly_spread, shown_trials
from autoq.recipe import SiteConfig
from autoq.runs.images import LabelledImages
from autoq.runs.search.record import MeasuredAccuracy, RunRecord
from autoq.scoring import Evaluator
from autoq.scoring.accuracy import FullPrecision, measure_beside_full_precision


@dataclass
class AccuracyMeter:
    """Measures recipes on all labelled images, and keeps the time of the last one.

    Attributes:
        evaluator: applies recipes.
        labelled: the images.
        full_precision: of the same model on these images.
        seconds: that a recipe took; None before one was measured.
    """

    evaluator: Evaluator
    labelled: LabelledImages
    full_precision: FullPrecision
    seconds: float | None = None

    def measure_full_precision(self) -> MeasuredAccuracy:
        """Measure full precision."""
        started, meter = time.monotonic(), self.evaluator.task.meter()
        for index, (batch, labels) in enumerate(self.labelled.batches()):
            meter.add(self.full_precision.outputs(index, batch), labels)
        self.seconds = time.monotonic() - started
        return MeasuredAccuracy.of(meter.accuracy())

    def measure(self, sites: Mapping[str, SiteConfig]) -> MeasuredAccuracy:
        """Measure a recipe, and its discrepancy from full precision."""
        evaluator = self.evaluator
        started, before = time.monotonic(), self.full_precision.seconds
        _, found, discrepancy = measure_beside_full_precision(
            evaluator.model,
            evaluator,
            sites,
            self.labelled.batches(),
            task=evaluator.task,
            full_precision=self.full_precision,
        )
        once = self.full_precision.seconds - before  # which other recipes will not take
        self.seconds = time.monotonic() - started - once
        return MeasuredAccuracy.of(found).model_copy(update={"kl_nats": discrepancy.kl_nats})


def trials_to_measure(trials: list[EvaluatedTrial], record: RunRecord) -> tuple[list[EvaluatedTrial], int]:
    """List the trials whose accuracy is measured, and how many of them, the first ones, are measured in any case."""
    limits, bits = record.limits, record.baseline_bits
    front, uniform = shown_trials(trials, limits)
    baseline = [trial for trial in uniform if bits and trial.label == f"w{bits[0]}a{bits[1]}"]
    first = {trial.id: trial for trial in [*chosen_trials(front, limits), *baseline]}
    spread = evenly_spread(front, record.settings.eval_recipes)
    return list((first | {trial.id: trial for trial in [*spread, *uniform]}).values()), len(first)
