"""Score whole recipes against full precision on the calibration images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
from torch import Tensor

from autoq.errors import RunError
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import State
from autoq.graph.trace import TracedModel
from autoq.recipe import SiteConfig, hash_sites
from autoq.scoring.discrepancy import Discrepancy, Score
from autoq.scoring.outputs import finite_outputs, require_finite
from autoq.scoring.prefix_cache import PrefixCache, ReuseStatistics
from autoq.scoring.sources import QuantizerSource
from autoq.tasks import CLASSIFICATION, BaseTask, Outputs

_OPERAND_BYTES = 24 << 20
"""Most bytes of one activation in a batch: the C library hands out larger blocks afresh, at ten times the cost."""
_MOST_IMAGES = 128
CACHE_BYTES = 1 << 30
"""Memory for outputs of stages that recipes share."""


class Evaluator:
    """Joint discrepancy of recipes on one set of images.

    Stages that a recipe quantizes like an earlier one are not run again (``PrefixCache``); scores are the same bit for
    bit as without. The model's weights and the source's quantizers must stay as they are.

    Attributes:
        model: its slots are changed by every evaluation.
        images: how many images a complete score is the mean over.
        task: fitted.
    """

    def __init__(
        self,
        model: QuantizedModel,
        source: QuantizerSource,
        images: Tensor,
        batch_size: int | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
        autocast: torch.dtype | None = None,
        task: BaseTask = CLASSIFICATION,
    ) -> None:
        """Run full precision once and keep its outputs for comparison.

        Args:
            model: the model, on the device of ``images``.
            source: where quantizers come from, such as a bank.
            images: of shape (N, C, H, W).
            batch_size: images evaluated at a time; None: as many as run fast.
            cache_bytes: most memory for outputs of stages; 0 runs all stages of every recipe.
            autocast: type in which candidates' products are computed, such as ``torch.bfloat16``; full precision is
                not changed by it.
            task: says what the model's output means; fitted to full precision here, if that has not been done.

        Raises:
            TaskError: the model has no such output, or the task cannot be fitted to it.
            NonFiniteError: full precision itself produces NaN or infinity.
        """
        self.model = model
        self.images = len(images)
        self._source = source
        self._batches = torch.split(images, batch_size or choose_batch_size(model.traced))
        self._cache = PrefixCache(cache_bytes)
        self._autocast = autocast
        model.remove_()
        with torch.inference_mode():
            self._reference = [finite_outputs(model, batch, task) for batch in self._batches]
        self.task = task.fitted(self._reference)

    def evaluate(self, sites: Mapping[str, SiteConfig], go_on: Callable[[Score], bool] | None = None) -> Score:
        """Measure the discrepancy of a recipe from full precision over all images.

        Args:
            sites: the recipe's.
            go_on: asked after the first of several batches, with the score so far; False stops, and the score returned
                is over that batch alone: its ``images`` are fewer than this evaluator's.

        Raises:
            RecipeError: the model has no such site or operand.
            CalibrationError: an option does not fit its operand.
            NonFiniteError: an output is NaN or infinite; names the first site that produced one.
        """
        self.apply_(sites)
        path = self._cache.path(self._signatures(sites))
        discrepancy = Discrepancy(self.task)
        with torch.inference_mode():
            for index, reference in enumerate(self._reference):
                discrepancy.add(reference, self._outputs(index, path))
                asked = go_on is not None and index == 0 and len(self._batches) > 1
                if asked and go_on is not None and not go_on(discrepancy.score()):
                    break
        return discrepancy.score()

    def apply_(self, sites: Mapping[str, SiteConfig]) -> None:
        """Put a recipe's quantizers into the model's slots and empty all others.

        Raises:
            RunError: what the slots then hold is not what was asked for.
        """
        self._source.apply_(sites)
        if self.model.configuration() != {site: operands for site, operands in sites.items() if operands}:
            raise RunError("the quantizers in the model are not those of the recipe; this is an error in autoq")

    @property
    def reuse(self) -> ReuseStatistics:
        """Counts of stages that were run and that were reused."""
        return self._cache.statistics

    def _signatures(self, sites: Mapping[str, SiteConfig]) -> list[Hashable]:
        """Return, for each stage, what decides its output for a given input."""
        stages: list[list[Hashable]] = [[] for _ in self.model.stages]
        for key, stage in self.model.stage_of.items():
            if (config := sites.get(key[0], {}).get(key[1])) is not None:
                stages[stage].append((key, config))
        replaced = [site for site, slot in self.model.operations.items() if slot.replacement is not None]
        if replaced:  # an integer LayerNorm rounds to the steps of what it feeds, which may be stages later
            whole = hash_sites(sites)
            for stage in {self.model.stage_of_operation[site] for site in replaced}:
                stages[stage].append(whole)
        return [tuple(stage) for stage in stages]

    def _outputs(self, batch: int, path: Sequence[int]) -> Outputs:
        """Return the finite outputs of one batch, run from the first stage whose state is not cached."""
        images = self._batches[batch]
        first, state = self._cache.longest(batch, path)
        current: State = (images,) if state is None else state
        with torch.autocast(images.device.type, self._autocast, enabled=self._autocast is not None):
            for stage in range(first, len(path)):
                current = self.model.run_stage(stage, current)
                self._cache.offer(batch, path, stage, current)
            return require_finite(self.task.outputs_of(current, self.model.output_names), self.model, images)


def choose_batch_size(traced: TracedModel) -> int:
    """Choose a batch size such that no activation exceeds 24 MiB; a power of two, at most 128."""
    fitting = max(1, _OPERAND_BYTES // (4 * traced.largest_activation))
    return int(min(_MOST_IMAGES, 1 << (fitting.bit_length() - 1)))
