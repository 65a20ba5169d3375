"""The published methods at the width of a budget: what a search is compared with beside its own uniform points.

Their quantizers and calibration need not lie in the search space, so that they are no trials of the study: each is
calibrated by itself, scored on the same images, and left with its bank in a directory of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from autoq.calibration.observers import OBSERVERS
from autoq.cost import CostModel
from autoq.errors import InputError, RunError
from autoq.events import PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.methods import METHODS, BaseMethod, BitWidths
from autoq.runs.opening import RunInputs
from autoq.runs.quantize import calibrate_method
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.record import BaselineEntry, RunRecord
from autoq.runs.search.settings import Baselines
from autoq.scoring.accuracy import FullPrecision
from autoq.scoring.sources import SolvedSource

_logger = logging.getLogger(__name__)


def published_methods(which: Baselines) -> list[BaseMethod]:
    """List the methods that only calibrate.

    Args:
        which: ``uniform``: none; ``published``: those that calibrate operand by operand, in seconds to a minute;
            ``all``: those too that search for the error of each layer's output, which may take longer than the whole
            search.
    """
    methods = [method() for method in METHODS.values() if method.reconstruction is None]
    if which == "published":
        return [method for method in methods if not _searches_outputs(method)]
    return methods if which == "all" else []


def measure_baselines(
    inputs: RunInputs,
    costs: CostModel,
    directory: SearchDirectory,
    record: RunRecord,
    progress: Progress,
    keep: Callable[[dict[str, BaselineEntry]], None],
    deadline: float | None = None,
) -> None:
    """Calibrate, score and measure the published methods at the record's width, except for what it has of them.

    A method that cannot be had of this model is left out with a warning.

    Args:
        inputs: the model as it was loaded, its task fitted, and images.
        costs: of recipes of the model.
        directory: of the run.
        record: of the run; says which methods, at which bits.
        progress: told what happens, as phase ``baselines``.
        keep: called after each with all that are known.
        deadline: ``time.monotonic()`` after which no other method is begun; None: there is none.
    """
    known, bits = dict(record.baselines), record.baseline_bits
    methods = [] if bits is None else published_methods(record.settings.baselines)
    if not methods or bits is None:
        return
    progress(PhaseStarted("baselines", len(methods), ", ".join(method.name for method in methods)))
    measured = _Measured(inputs, costs, directory, FullPrecision(inputs.session.model, inputs.session.task))
    for done, method in enumerate(methods, start=1):
        name = f"{method.name}-w{bits[0]}a{bits[1]}"
        if deadline is not None and time.monotonic() > deadline:
            _logger.warning("%s is not compared with: half of the time limit has passed", name)
        elif name not in known or (inputs.labelled is not None and not known[name].score.metrics):
            try:
                known[name] = measured.of(method, BitWidths(*bits, attention=bits[1]), name)
            except (InputError, RunError) as error:
                _logger.warning("%s cannot be compared with: %s", name, error)
            else:
                keep(known)
        progress(PhaseAdvanced("baselines", done))


@dataclass(frozen=True)
class _Measured:
    """Measures methods on the images of a search.

    Attributes:
        inputs: as in :func:`measure_baselines`.
        costs: likewise.
        directory: likewise.
        full_precision: of the model as it was loaded, whatever methods fold into its weights.
    """

    inputs: RunInputs
    costs: CostModel
    directory: SearchDirectory
    full_precision: FullPrecision

    def of(self, method: BaseMethod, bits: BitWidths, name: str) -> BaselineEntry:
        """Calibrate one method on as many images as its paper, score it like a trial, and write its recipe."""
        inputs, folder = self.inputs, self.directory.baselines / name
        images = replace(inputs.images, tensor=inputs.images.tensor[: method.images])
        calibrated = calibrate_method(inputs.session, method, bits, images, folder / "bank", inputs.labelled)
        # Like trials: beside all images of the search, not only those that the method calibrates on.
        like_trials = replace(
            calibrated, images=inputs.images, scoring=inputs.held_out, full_precision=self.full_precision
        )
        cost = self.costs.cost(calibrated.recipe.sites).record()
        score = like_trials.score(SolvedSource(calibrated.session.model, calibrated.operands), ignore)
        calibrated.recipe.save(folder / "recipe.json")
        return BaselineEntry(
            method=method.name,
            weight_bits=bits.weights,
            activation_bits=bits.activations,
            images=len(images.tensor),
            recipe=f"{self.directory.baselines.name}/{name}/recipe.json",
            cost=cost,
            score=score,
        )


def _searches_outputs(method: BaseMethod) -> bool:
    return OBSERVERS.lookup(method.settings(0).observer).by_layer_output
