"""The phases of a search that are done in chunks, by any of its workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from autoq.calibration import Bank
from autoq.calibration.bank.files import SolvedParameters
from autoq.optimization.executors.chunks import ChunkRunner
from autoq.recipe import SiteConfig
from autoq.runs.search.record import MeasuredAccuracy
from autoq.runs.search.state import SearchState
from autoq.scoring import choose_batch_size
from autoq.sensitivity.fisher import FisherSettings, add_up_losses
from autoq.sensitivity.table import Option
from autoq.sensitivity.weighted_errors import add_up_parts

_LEAST_CHUNKS = 6
"""Into which options and images are divided; three for each worker if that is more, so that none waits long."""
_LEAST_IMAGES = 12
"""Of a chunk, where that leaves no worker idle: whatever the images, weights are quantized at every option."""


@dataclass(frozen=True)
class SolveChunk:
    """Some options of a bank to solve.

    Attributes:
        options: of neighbouring sites.
    """

    options: tuple[Option, ...]

    def run(self, state: SearchState) -> dict[Option, SolvedParameters]:
        """Solve them, and keep nothing: the driver's bank is the only one."""
        return state.bank.solve_apart(self.options)


@dataclass(frozen=True)
class FisherChunk:
    """Some calibration images to measure options alone on.

    Attributes:
        first: number of the first image.
        count: how many images.
        options: all of them.
    """

    first: int
    count: int
    options: tuple[Option, ...]

    def run(self, state: SearchState) -> tuple[dict[Option, float], int]:
        """Return the sums of the options' losses over the images, and how many images there were."""
        state.require(self.options)
        images = state.images.tensor[self.first : self.first + self.count]
        batches = torch.split(images, choose_batch_size(state.session.traced))
        settings = FisherSettings(seed=state.bank.settings.seed, first=self.first)
        losses = add_up_losses(state.bank, batches, self.options, settings, task=state.session.task)
        return losses.totals, losses.images


@dataclass(frozen=True)
class CalibrationScoreChunk:
    """A recipe to score on the images that calibrate.

    Attributes:
        sites: the recipe.
    """

    sites: Mapping[str, SiteConfig]

    def run(self, state: SearchState) -> float:
        """Return its KL divergence from full precision, in nats."""
        state.require_sites(self.sites)
        return state.calibration_evaluator.evaluate(self.sites).kl_nats


@dataclass(frozen=True)
class AccuracyChunk:
    """A recipe to measure on labelled images.

    Attributes:
        sites: the recipe.
    """

    sites: Mapping[str, SiteConfig]

    def run(self, state: SearchState) -> tuple[MeasuredAccuracy, float]:
        """Return what was measured, and how many seconds that took."""
        state.require_sites(self.sites)
        state.require_labelled()
        meter = state.meter
        assert meter is not None  # noqa: S101 - there are images with labels
        found = meter.measure(self.sites)
        return found, meter.seconds or 0.0


def solve_in_chunks(
    runner: ChunkRunner, bank: Bank, workers: int
) -> Callable[[Sequence[Option]], Iterator[dict[Option, SolvedParameters]]]:
    """Return what has a bank's options solved by workers, as ``Bank.solve_into`` takes it.

    Args:
        runner: has chunks done.
        bank: knows the order and the sizes of operands.
        workers: for how many.
    """

    def solve(options: Sequence[Option]) -> Iterator[dict[Option, SolvedParameters]]:
        chunks = [SolveChunk(part) for part in _neighbours(bank, options, _chunks_for(workers))]
        for _, found in runner.run(chunks):
            yield found

    return solve


def fisher_in_chunks(
    runner: ChunkRunner,
    parts: Sequence[range],
    options: Sequence[Option],
    workers: int,
    progress: Callable[[int], None],
) -> Iterator[tuple[dict[Option, float], int]]:
    """Have the losses of options alone added up by workers, each over some of the images.

    Workers are busy with the next part while the caller deals with the one before.

    Args:
        runner: has chunks done.
        parts: numbers of images, one part after the other.
        options: in canonical form, all of them solved and saved.
        workers: for how many.
        progress: called with the number of images of each chunk that is done.

    Yields:
        For each part, in order, the sums over its images, as ``autoq.sensitivity.fisher.add_up_losses`` has them, and
        how many images there are.
    """
    chunks: list[FisherChunk] = []
    missing: list[list[int]] = []  # positions of the chunks of parts that have not been yielded
    for images in parts:
        wanted = max(workers, min(_chunks_for(workers), len(images) // _LEAST_IMAGES))
        count, first = max(1, -(-len(images) // wanted)), len(chunks)
        starts = range(images.start, images.stop, count)
        chunks += [FisherChunk(start, min(count, images.stop - start), tuple(options)) for start in starts]
        missing.append(list(range(first, len(chunks))))
    found: dict[int, tuple[dict[Option, float], int]] = {}
    for position, sums in runner.run(chunks):
        found[position] = sums
        progress(sums[1])
        while missing and found.keys() >= set(missing[0]):
            yield add_up_parts(found[each] for each in missing.pop(0))
    for positions in missing:  # of no images
        yield add_up_parts(found[each] for each in positions)


def score_in_chunks(
    runner: ChunkRunner, recipes: Mapping[str, Mapping[str, SiteConfig]]
) -> Iterator[tuple[str, float]]:
    """Score recipes on the images that calibrate; yield the name and the KL divergence of each as it is done.

    Args:
        runner: has chunks done.
        recipes: by name.
    """
    names = list(recipes)
    for position, kl_nats in runner.run(CalibrationScoreChunk(recipes[name]) for name in names):
        yield names[position], kl_nats


def accuracy_in_chunks(
    runner: ChunkRunner, recipes: Mapping[str, Mapping[str, SiteConfig]], may_begin: Callable[[str], bool]
) -> Iterator[tuple[str, MeasuredAccuracy, float]]:
    """Measure recipes on labelled images; yield the name, what was measured and the seconds of each as it is done.

    Args:
        runner: has chunks done.
        recipes: by name.
        may_begin: asked before a recipe is begun, when a worker is idle.
    """
    begun: list[str] = []

    def chunks() -> Iterator[AccuracyChunk]:
        for name, sites in recipes.items():
            if may_begin(name):
                begun.append(name)
                yield AccuracyChunk(sites)

    for position, (measured, seconds) in runner.run(chunks()):
        yield begun[position], measured, seconds


def _chunks_for(workers: int) -> int:
    return max(_LEAST_CHUNKS, 3 * workers)


def _neighbours(bank: Bank, options: Sequence[Option], count: int) -> Iterator[tuple[Option, ...]]:
    """Divide options into parts of neighbouring sites that take about as long, by the elements of their operands."""
    sites = bank.model.traced.sites_by_name
    order = {site: number for number, site in enumerate(sites)}
    by_site: dict[str, list[Option]] = {}
    for option in sorted(options, key=lambda option: order[option[0]]):
        by_site.setdefault(option[0], []).append(option)
    work = {
        site: sum(math.prod(sites[site].operand(operand).shape) for _, operand, _ in own)
        for site, own in by_site.items()
    }
    share, part, done = sum(work.values()) / count, list[Option](), 0
    for site, own in by_site.items():
        part += own
        done += work[site]
        if done >= share:
            yield tuple(part)
            part, done = [], 0
    if part:
        yield tuple(part)
