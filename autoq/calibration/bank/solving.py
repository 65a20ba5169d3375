"""Solving what a bank lacks: operand by operand on samples of their values, or site by site on the layers' outputs.

With ``second_order``, weights are then rounded on their grids by the Gram matrices of their layers' inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from autoq.calibration.bank.files import SolvedKey, SolvedOption
from autoq.calibration.bank.packed_codes import pack_codes
from autoq.calibration.capture import capture
from autoq.calibration.fpcs.output_search import solve_jobs
from autoq.calibration.last_batch import samples_of_last_batch
from autoq.calibration.observers import OBSERVERS
from autoq.calibration.recording import OperandSample
from autoq.calibration.second_order.gram import capture_grams, gram_groups
from autoq.calibration.second_order.weights import LayerRounding, is_rounded
from autoq.calibration.sequential import solve_in_order
from autoq.calibration.settings import CalibrationSettings
from autoq.calibration.solvers import OperandSolver
from autoq.calibration.threads import in_threads
from autoq.errors import CalibrationError
from autoq.graph.insert import OperandKey, QuantizedModel
from autoq.graph.sites import Operand
from autoq.quantizers import BaseQuantizer
from autoq.recipe import SiteConfig
from autoq.tasks import BaseTask

Solved = Generator[dict[SolvedKey, SolvedOption], None, None]

_GRAM_BYTES = 1 << 29
"""Memory for Gram matrices of layers' inputs: layers are rounded a group of them at a time, a pass over the images for
each; those of the last group are kept for further options."""


class OptionSolver:
    """Solves options of a model's operands; what is observed on the images is kept for further options.

    Attributes:
        model: whose operands are solved; its slots are emptied.
        settings: how parameters are chosen.
        recipe_sites: sites of which both operands are solved together, or one after the other.
    """

    def __init__(
        self,
        model: QuantizedModel,
        images: Tensor | Callable[[], Tensor],
        settings: CalibrationSettings,
        *,
        batch_size: int,
        recipe_sites: Mapping[str, SiteConfig],
        known: Mapping[OperandKey, BaseQuantizer],
        task: BaseTask,
        capture_progress: Callable[[int], None] | None,
    ) -> None:
        """Observe nothing yet.

        Args:
            model: whose operands are solved.
            images: of shape (N, C, H, W) on the model's device, or a function that returns them when the first
                activation is solved.
            settings: how parameters are chosen.
            batch_size: images that run at a time, unless the settings say how many.
            recipe_sites: what ``fpcs`` solves jointly, or what is solved on quantized inputs.
            known: of these, quantizers that are taken as they are, where inputs are quantized.
            task: says what the model's output means, where ``fpcs`` weights errors by what they cost it.
            capture_progress: gets the number of images of each batch that is observed.
        """
        self.model, self.settings, self.recipe_sites, self._known = model, settings, recipe_sites, known
        self._images, self._batch_size = images, settings.batch_images or batch_size
        self._capture_progress, self._task = capture_progress, task
        self._samples: dict[OperandKey, OperandSample] = {}
        self._grams: dict[str, Tensor] = {}

    def solve(self, options: Sequence[SolvedKey], workers: int) -> Solved:
        """Yield solved options, an operand's or a site's at a time.

        Args:
            options: operands and configurations.
            workers: operands solved side by side; sites are solved one after the other, as a product uses all threads.

        Raises:
            CalibrationError: an option does not fit its operand.
        """
        if self.settings.inputs == "quantized":
            own = [key for key in options if self.recipe_sites.get(key[0], {}).get(key[1]) == key[2]]
            yield from self._solve_in_order(set(own))
            options = [key for key in options if key not in own]
        groups = self._second_order_groups(options)
        chosen = {site for group in groups for site in group}
        yield from self._solve_on_grids([key for key in options if key[0] not in chosen], workers)
        for group in groups:
            self._capture_grams(group)
            yield from self._solve_on_grids([key for key in options if key[0] in group], workers)

    def _second_order_groups(self, options: Sequence[SolvedKey]) -> list[list[str]]:
        """Return the sites whose weights are rounded by their Gram matrices, as many together as fit into memory."""
        if not self.settings.second_order:
            return []
        sites = dict.fromkeys(site for site, operand, config in options if operand == "weight" and is_rounded(config))
        if sites.keys() <= self._grams.keys():
            return [list(sites)] if sites else []
        return gram_groups(self.model, sites, _GRAM_BYTES)

    def _capture_grams(self, sites: Sequence[str]) -> None:
        """Keep the Gram matrices of these sites, and no others."""
        if not set(sites) <= self._grams.keys():
            self._grams.clear()
            batches = torch.split(self._calibration_images(), self._batch_size)
            self._grams = capture_grams(self.model, batches, sites, self._capture_progress)

    def _solve_on_grids(self, options: Sequence[SolvedKey], workers: int) -> Solved:
        if options and OBSERVERS.lookup(self.settings.observer).by_layer_output:
            yield from self._solve_by_site(options)
        elif options:
            yield from self._solve_by_operand(options, workers)

    def _rounded(self, solved: dict[SolvedKey, BaseQuantizer]) -> dict[SolvedKey, SolvedOption]:
        """Round a site's weights by the Gram matrix of its input, where that has been captured."""
        found = {key: SolvedOption(quantizer) for key, quantizer in solved.items()}
        weights = [key for key in solved if key[0] in self._grams and key[1] == "weight"]
        if not weights:
            return found
        layer = LayerRounding(self.model.traced.weight(*weights[0][:2]), self._grams[weights[0][0]])
        for key in weights:
            if (rounded := layer.round(solved[key])) is not None:
                found[key] = SolvedOption(rounded.quantizer, pack_codes(rounded.codes, key[2].bits))
        return found

    def _solve_by_operand(self, options: Sequence[SolvedKey], workers: int) -> Solved:
        by_operand: dict[OperandKey, list[SolvedKey]] = {}
        for key in options:
            by_operand.setdefault(key[:2], []).append(key)
        described = {(site.name, operand.name): operand for site, operand in self.model.traced.operands()}
        if any(not described[key].is_weight for key in by_operand):
            self._capture(by_operand)

        def solve(key: OperandKey) -> dict[SolvedKey, SolvedOption]:
            operand = described[key]
            solver = OperandSolver(operand, operands[key], self.settings)
            return self._rounded({option: _solve(solver, option) for option in by_operand[key]})

        for operands in self._of_few(by_operand, described):
            yield from in_threads(solve, operands, min(workers, len(operands)))

    def _of_few(
        self, wanted: Iterable[OperandKey], described: Mapping[OperandKey, Operand]
    ) -> Iterator[Mapping[OperandKey, OperandSample | Tensor]]:
        """Yield weights and samples of all operands, or of a few at a time where all values of the last batch count."""
        weights = {key: self.model.traced.weight(*key) for key in wanted if described[key].is_weight}
        activations = {key: self._samples[key] for key in wanted if not described[key].is_weight}
        if not self.settings.sample_last_batch:
            yield {key: weights[key] if key in weights else activations[key] for key in wanted}
            return
        if weights:
            yield weights
        if activations:
            last = torch.split(self._calibration_images(), self._batch_size)[-1]
            yield from samples_of_last_batch(self.model, last, self.settings, activations)

    def _capture(self, operands: Iterable[OperandKey]) -> None:
        """Observe products, inputs of LayerNorms and softmaxes, summands or outputs, once one of these is asked for."""
        activations = [each for each in self.model.traced.operands() if not each[1].is_weight]
        for kinds in (None, {"layer_norm", "softmax"}, {"add"}, {"output"}):
            group = [
                (site.name, operand.name)
                for site, operand in activations
                if (bool(site.macs) if kinds is None else site.op in kinds)
            ]
            if any(key in group and key not in self._samples for key in operands):
                batches = torch.split(self._calibration_images(), self._batch_size)
                self._samples |= capture(
                    self.model,
                    batches,
                    self.settings,
                    self._capture_progress,
                    group,
                    keeps_values=not self.settings.sample_last_batch,
                )

    def _solve_in_order(self, options: Set[SolvedKey]) -> Solved:
        if not options:
            return
        batches = torch.split(self._calibration_images(), self._batch_size)
        sites, progress = self.recipe_sites, self._capture_progress
        for site, solved in solve_in_order(self.model, batches, sites, self.settings, self._known, progress):
            found = {(site, operand, quantizer.config): quantizer for operand, quantizer in solved.items()}
            yield self._rounded({key: quantizer for key, quantizer in found.items() if key in options})

    def _solve_by_site(self, options: Sequence[SolvedKey]) -> Solved:
        jobs: dict[str, list[SiteConfig]] = {}
        for site, operand, config in options:
            together = self.recipe_sites.get(site, {})
            job = together if together.get(operand) == config else {operand: config}
            if job not in jobs.setdefault(site, []):
                jobs[site].append(job)
        wanted = set(options)
        images = self._calibration_images()
        results = solve_jobs(self.model, images, self._batch_size, jobs, self.settings, self._task)
        for site, of_site in groupby(results, itemgetter(0)):
            found = {
                (site, operand, quantizer.config): quantizer
                for _, _, solved in of_site
                for operand, quantizer in solved.items()
            }
            yield self._rounded({key: quantizer for key, quantizer in found.items() if key in wanted})

    def _calibration_images(self) -> Tensor:
        if callable(self._images):
            self._images = self._images()
        return self._images


def _solve(solver: OperandSolver, option: SolvedKey) -> BaseQuantizer:
    site, operand, config = option
    try:
        return solver.solve(config)
    except CalibrationError as error:
        raise CalibrationError(f"{site}:{operand} at {config.to_json()}: {error}") from error
