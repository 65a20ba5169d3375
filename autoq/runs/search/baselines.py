"""The published methods at the width of a budget: what a search is compared with beside its own uniform points.

Their quantizers and calibration need not lie in the search space, so that they are no trials of the study: each is
calibrated by itself, scored on the same images, and left with its bank in a directory of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from autoq.calibration.observers import OBSERVERS
from autoq.cost import CostModel
from autoq.errors import InputError, RunError
from autoq.events import PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.methods import METHODS, BaseMethod, BitWidths, create_method
from autoq.optimization.executors.chunks import ChunkRunner
from autoq.recipe import ScoreRecord, SiteConfig
from autoq.runs.quantize import calibrate_method
from autoq.runs.search.record import BaselineEntry, RunRecord
from autoq.runs.search.settings import Baselines
from autoq.runs.search.state import SearchState
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
    runner: ChunkRunner,
    costs: CostModel,
    record: RunRecord,
    keep: Callable[[dict[str, BaselineEntry]], None],
    *,
    is_labelled: bool = False,
    deadline: float | None = None,
    progress: Progress = ignore,
) -> None:
    """Calibrate, score and measure the published methods at the record's width, except for what it has of them.

    A method that cannot be had of this model is left out with a warning.

    Args:
        runner: has each method measured, by a worker or by the driver.
        costs: of recipes of the model.
        record: of the run; says which methods, at which bits.
        keep: called after each with all that are known.
        is_labelled: whether accuracy is measured.
        deadline: ``time.monotonic()`` after which no other method is begun; None: there is none.
        progress: told what happens, as phase ``baselines``.
    """
    if record.baseline_bits is None or not (methods := published_methods(record.settings.baselines)):
        return
    bits = BitWidths(*record.baseline_bits, attention=record.baseline_bits[1])
    progress(PhaseStarted("baselines", len(methods), ", ".join(method.name for method in methods)))
    known = dict(record.baselines)
    wanted = [each for each in methods if not _is_known(known.get(_name(each.name, bits)), is_labelled)]
    at_once = 1
    if runner.is_shared:
        at_once = min(len(wanted), record.settings.workers)
        wanted.reverse()  # those that take longest are listed last
    begun: list[str] = []

    def chunks() -> Iterator[BaselineChunk]:
        for method in wanted:
            if deadline is not None and time.monotonic() > deadline:
                _logger.warning("%s is not compared with: half of the time limit has passed", _name(method.name, bits))
                continue
            begun.append(method.name)
            yield BaselineChunk(method.name, bits, is_labelled, at_once)

    done = len(methods) - len(wanted)
    for position, measured in runner.run(chunks()):
        name = _name(begun[position], bits)
        if isinstance(measured, str):
            _logger.warning("%s cannot be compared with: %s", name, measured)
        else:
            known[name] = _entry(begun[position], bits, measured, costs)
            keep({each: known[each] for each in _in_order(known, methods, bits)})
        done += 1
        progress(PhaseAdvanced("baselines", done))


@dataclass(frozen=True)
class MeasuredMethod:
    """What is measured of a published method.

    Attributes:
        sites: its recipe.
        recipe: path of that, relative to the run directory.
        images: that it was calibrated on.
        score: on the images of the search.
    """

    sites: Mapping[str, SiteConfig]
    recipe: str
    images: int
    score: ScoreRecord


@dataclass(frozen=True)
class BaselineChunk:
    """A published method to calibrate and measure; its recipe and its bank are left in the run directory.

    Attributes:
        method: its name.
        bits: uniform widths.
        is_labelled: whether to measure accuracy.
        at_once: how many methods are measured side by side.
    """

    method: str
    bits: BitWidths
    is_labelled: bool
    at_once: int

    def run(self, state: SearchState) -> MeasuredMethod | str:
        """Return what is measured, or why this model cannot have the method."""
        state.require_labelled(self.is_labelled)
        try:
            with state.side_by_side(self.at_once):
                return self._measure(state)
        except (InputError, RunError) as error:
            return str(error)

    def _measure(self, state: SearchState) -> MeasuredMethod:
        """Calibrate on as many images as the paper, and score like a trial."""
        method, folder = create_method(self.method), state.directory.baselines / _name(self.method, self.bits)
        images = replace(state.images, tensor=state.images.tensor[: method.images])
        labelled = state.labelled if self.is_labelled else None
        calibrated = calibrate_method(state.loaded, method, self.bits, images, folder / "bank", labelled)
        # Like trials: beside all images of the search, not only those that the method calibrates on.
        like_trials = replace(
            calibrated, images=state.images, scoring=state.held_out, full_precision=state.loaded_full_precision
        )
        score = like_trials.score(SolvedSource(calibrated.session.model, calibrated.operands), ignore)
        recipe = folder / "recipe.json"
        calibrated.recipe.save(recipe)
        where = recipe.relative_to(state.directory.path).as_posix()
        return MeasuredMethod(calibrated.recipe.sites, where, len(images.tensor), score)


def _name(method: str, bits: BitWidths) -> str:
    return f"{method}-w{bits.weights}a{bits.activations}"


def _is_known(entry: BaselineEntry | None, is_labelled: bool) -> bool:
    return entry is not None and (bool(entry.score.metrics) or not is_labelled)


def _entry(method: str, bits: BitWidths, measured: MeasuredMethod, costs: CostModel) -> BaselineEntry:
    return BaselineEntry(
        method=method,
        weight_bits=bits.weights,
        activation_bits=bits.activations,
        images=measured.images,
        recipe=measured.recipe,
        cost=costs.cost(measured.sites).record(),
        score=measured.score,
    )


def _in_order(known: Mapping[str, BaselineEntry], methods: list[BaseMethod], bits: BitWidths) -> list[str]:
    """List what is known as methods are listed, whoever was done first."""
    listed = [name for each in methods if (name := _name(each.name, bits)) in known]
    return [*(name for name in known if name not in listed), *listed]


def _searches_outputs(method: BaseMethod) -> bool:
    return OBSERVERS.lookup(method.settings(0).observer).by_layer_output
