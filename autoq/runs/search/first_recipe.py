"""What options lose alone, and the first recipe of a search: the exact allocation by it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from autoq.calibration import Bank
from autoq.events import FirstRecipe, Progress
from autoq.optimization.executors.chunks import ChunkRunner
from autoq.optimization.space.uniform_points import UniformPoint, has_schemes, uniform_points
from autoq.optimization.trials import evaluated_trials
from autoq.runs.opening import RunInputs
from autoq.runs.search.chunks import fisher_in_chunks
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.recipes import RecipeWriter
from autoq.runs.search.settings import SearchSettings
from autoq.runs.search.study import SearchStudy
from autoq.runs.sensitivity import measure_into, options_of_space
from autoq.scoring import Evaluator
from autoq.sensitivity.measure import LossSums
from autoq.sensitivity.proxies import FISHER, PROXIES
from autoq.sensitivity.table import Option, SensitivityTable


@dataclass(frozen=True)
class OptionsAlone:
    """Measures what each option of a search's space loses alone, once a run.

    Attributes:
        inputs: model, space and images.
        bank: of the model, with all options solved.
        directory: of the run, which keeps the table.
        settings: of the search.
        runner: has what is done in chunks done.
        progress: told what happens.
    """

    inputs: RunInputs
    bank: Bank
    directory: SearchDirectory
    settings: SearchSettings
    runner: ChunkRunner
    progress: Progress

    @property
    def proxy(self) -> str:
        """The loss by which options are measured."""
        settings = self.settings
        return settings.proxy if PROXIES[settings.proxy].is_additive else settings.sensitivity

    def measure(self, on_first: Callable[[SensitivityTable], None] | None = None) -> SensitivityTable:
        """Measure all options on the calibration images.

        Args:
            on_first: gets what is found on the first few images, before the others are looked at; not called where the
                sum of sensitivities is what is minimised, as all trials have it of the same images.
        """
        return self._measure(self.proxy, None if PROXIES[self.settings.proxy].is_additive else on_first)

    def uniform_points(
        self, table: SensitivityTable | None, baseline_bits: tuple[int, int] | None
    ) -> list[UniformPoint]:
        """List the uniform points in the schemes that lose least alone, whether or not the sampler asks for that.

        Args:
            table: what options lose alone, if it was measured.
            baseline_bits: of weights and activations of another point, which recipes are compared with.
        """
        space = self.inputs.space
        if table is None and has_schemes(space):
            table = self._measure(self.proxy if PROXIES[self.proxy].is_additive else FISHER)
        return uniform_points(space, None if table is None else table.loss, [baseline_bits] if baseline_bits else [])

    def _measure(self, proxy: str, on_first: Callable[[SensitivityTable], None] | None = None) -> SensitivityTable:
        session, images = self.inputs.session, self.inputs.images.tensor

        def fisher(
            options: Sequence[Option], parts: Sequence[range], on_images: Callable[[int], None]
        ) -> Iterator[LossSums]:
            return fisher_in_chunks(self.runner, parts, options, self.settings.workers, on_images)

        return measure_into(
            self.directory.sensitivities,
            options_of_space(self.inputs.space),
            evaluator=lambda: Evaluator(session.model, self.bank, images, task=session.task),
            bank=self.bank,
            images=images,
            proxy=proxy,
            task=session.task,
            progress=self.progress,
            fisher=fisher if self.runner.is_shared else None,
            on_first=on_first,
        )


def evaluate_first(study: SearchStudy, writer: RecipeWriter, progress: Progress, *, is_new: bool) -> None:
    """Evaluate the exact allocation before anything else, whatever the time limit, and write its recipe.

    Where sensitivities take long, that of the first few images comes before that of all.

    Args:
        study: of the search.
        writer: of its recipes.
        progress: told of the first recipe that is written.
        is_new: whether no earlier run has left trials.
    """
    if (frozen := study.evaluate_allocation()) is None:
        return
    is_first = is_new and not writer.kept
    writer.keep_if_on_front(frozen)
    if not is_first:
        return
    for trial in evaluated_trials([frozen], study.settings.proxy, study.limits.chosen):
        loss, path = PROXIES[study.settings.proxy].loss, os.fspath(writer.directory.recipe_path(trial.id))
        told = f"{loss.title} {loss.format(trial.loss)}"
        progress(FirstRecipe(told, trial.cost_kind.format(trial.chosen_cost), path))
