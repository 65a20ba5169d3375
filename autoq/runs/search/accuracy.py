"""Accuracy on labelled images, and how long that takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from autoq.recipe import SiteConfig
from autoq.runs.images import LabelledImages
from autoq.runs.search.record import MeasuredAccuracy
from autoq.scoring import Evaluator, measure_accuracy


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

    def measure(self, sites: Mapping[str, SiteConfig]) -> MeasuredAccuracy:
        """Measure a recipe, or full precision if it has no sites."""
        started = time.monotonic()
        self.evaluator.apply(sites)
        found = measure_accuracy(self.evaluator.model, self.labelled.batches(), task=self.evaluator.task)
        self.seconds = time.monotonic() - started
        return MeasuredAccuracy.of(found)

    def fits(self, deadline: float | None) -> bool:
        """Tell whether one more recipe is measured by a ``time.monotonic()``; always if that is None."""
        return deadline is None or time.monotonic() + (self.seconds or 0.0) <= deadline
