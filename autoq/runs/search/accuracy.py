"""Accuracy on labelled images, discrepancy on the same, how long that takes, and of which trials it is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from autoq.optimization.trials import EvaluatedTrial, best_trial, evenly_spread, shown_trials
from autoq.recipe import SiteConfig
from autoq.runs.images import LabelledImages
from autoq.runs.search.improve_front import chosen_trials
from autoq.runs.search.record import MeasuredAccuracy, RunRecord
from autoq.scoring import Evaluator, measure_accuracy
from autoq.scoring.discrepancy import Discrepancy
from autoq.tasks import Outputs

_REFERENCE_BYTES = 1 << 28
"""Most memory for full precision's outputs of labelled images: 64,000 of a thousand classes. Further ones are not
compared."""


@dataclass
class AccuracyMeter:
    """Measures recipes on all labelled images, and keeps the time of the last one.

    Attributes:
        evaluator: applies recipes.
        labelled: the images.
        seconds: that a recipe took; None before one was measured.
    """

    evaluator: Evaluator
    labelled: LabelledImages
    seconds: float | None = None
    _reference: list[Outputs] | None = None

    def measure_full_precision(self) -> MeasuredAccuracy:
        """Measure full precision, and keep its outputs for comparison."""
        kept: list[Outputs] = []
        left = _REFERENCE_BYTES

        def keep(outputs: Outputs) -> None:
            nonlocal left
            left -= sum(leaf.numel() * leaf.element_size() for leaf in outputs)
            if left >= 0:
                kept.append(outputs)

        found = self._measure({}, keep)
        self._reference = kept
        return found

    def measure(self, sites: Mapping[str, SiteConfig]) -> MeasuredAccuracy:
        """Measure a recipe, and its discrepancy from full precision."""
        if self._reference is None:
            self.measure_full_precision()
        references, discrepancy = iter(self._reference or ()), Discrepancy(self.evaluator.task)

        def compare(outputs: Outputs) -> None:
            if (reference := next(references, None)) is not None:
                discrepancy.add(reference, outputs)

        found = self._measure(sites, compare)
        return found.model_copy(update={"kl_nats": discrepancy.score().kl_nats}) if self._reference else found

    def _measure(self, sites: Mapping[str, SiteConfig], on_outputs: Callable[[Outputs], None]) -> MeasuredAccuracy:
        started = time.monotonic()
        self.evaluator.apply(sites)
        model, task = self.evaluator.model, self.evaluator.task
        found = measure_accuracy(model, self.labelled.batches(), task=task, on_outputs=on_outputs)
        self.seconds = time.monotonic() - started
        return MeasuredAccuracy.of(found)


def trials_to_measure(trials: list[EvaluatedTrial], record: RunRecord) -> tuple[list[EvaluatedTrial], int]:
    """List the trials whose accuracy is measured, and how many of them, the first ones, are measured in any case."""
    limits, bits = record.limits, record.baseline_bits
    front, uniform = shown_trials(trials, limits)
    best = best_trial(front, limits)
    baseline = [trial for trial in uniform if bits and trial.label == f"w{bits[0]}a{bits[1]}"]
    first = {trial.id: trial for trial in [*([best] if best else []), *chosen_trials(front, limits), *baseline]}
    spread = evenly_spread(front, record.settings.eval_recipes)
    return list((first | {trial.id: trial for trial in [*spread, *uniform]}).values()), len(first)
