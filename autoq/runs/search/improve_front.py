"""The recipes of a front that were chosen, finished or reconstructed on unlabelled images once the search is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from autoq.events import Event, PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.optimization.executors.chunks import ChunkRunner
from autoq.optimization.trials import EvaluatedTrial
from autoq.recipe import Recipe
from autoq.reconstruction.finishing import FinishingSettings
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.finish import FINISHING_IMAGES, finish_calibrated
from autoq.runs.reconstruct_recipe import reconstruct_calibrated
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.record import ImprovedEntry, ImprovedKind, RunRecord
from autoq.runs.search.settings import SearchSettings
from autoq.runs.search.state import SearchState

OnImproved = Callable[[ImprovedKind, Mapping[str, ImprovedEntry]], None]
"""Called with a kind and all recipes of that kind, by the id of the trial that each was made from."""


def improve_chosen(
    runner: ChunkRunner,
    directory: SearchDirectory,
    record: RunRecord,
    chosen: list[EvaluatedTrial],
    on_improved: OnImproved,
    *,
    is_labelled: bool = False,
    progress: Progress = ignore,
) -> None:
    """Finish and reconstruct the recipes of trials, as the settings ask, each in a folder of its own.

    What is finished is reconstructed from there. A folder is named after the trial and what was done, so that other
    settings neither are refused nor overwrite anything; an interrupted reconstruction goes on in it.

    Args:
        runner: has each recipe improved, by a worker or, if there is but one, by the driver, which tells more of it.
        directory: of the run, in which the trials' recipes and the bank have been written.
        record: of the run.
        chosen: the trials.
        on_improved: called after each recipe with all that is finished, or all that is reconstructed; what it then
            writes is not done again.
        is_labelled: whether accuracy is measured.
        progress: told what happens, as phase ``improving`` where workers do it.

    Raises:
        RunDirectoryError: a folder cannot be written, or holds something else.
        RunError: training failed, or the quantized model produces NaN.
    """
    paths = [directory.recipe_path(trial.id).relative_to(directory.path).as_posix() for trial in chosen]
    names = [trial.id for trial in chosen]
    runner = runner if len(chosen) > 1 else runner.alone()
    at_once = min(len(chosen), record.settings.workers) if runner.is_shared else 1
    for step in _steps(record.settings) if chosen else ():
        chunks = [
            ImproveChunk(step, trial.label, name, path, is_labelled, at_once)
            for trial, name, path in zip(chosen, names, paths, strict=True)
        ]
        if runner.is_shared:
            labels = ", ".join(trial.label for trial in chosen)
            progress(PhaseStarted("improving", len(chunks), f"{labels}: {step.told}"))
        found: dict[str, ImprovedEntry] = {}
        before: Mapping[str, ImprovedEntry] = getattr(record, step.kind)
        for position, entry in runner.run(chunks):
            found[chosen[position].id] = entry
            paths[position], names[position] = entry.recipe, PurePosixPath(entry.recipe).parent.name
            on_improved(step.kind, {**before, **{each.id: found[each.id] for each in chosen if each.id in found}})
            if runner.is_shared:
                progress(PhaseAdvanced("improving", len(found)))


@dataclass(frozen=True)
class ImprovementStep:
    """What is done to each of the chosen recipes.

    Attributes:
        kind: what a recipe then is.
        images: unlabelled images to learn from, at most.
        training: how blocks are reconstructed; None: the recipe is finished in closed form.
    """

    kind: ImprovedKind
    images: int
    training: ReconstructionSettings | None = None

    @property
    def told(self) -> str:
        """What is done, in a few words."""
        if self.training is None:
            return "weights solved again"
        return f"blocks reconstructed, {self.training.iterations} iterations each"

    def folder_name(self, before: str, images: int) -> str:
        """Name what is made of a recipe called ``before``, on this many images."""
        steps = "" if self.training is None else f"-{self.training.iterations}it"
        return f"{before}{steps}-{images}img"


@dataclass(frozen=True)
class ImproveChunk:
    """A recipe to finish or to reconstruct; what is made of it is left in the run directory.

    Attributes:
        step: what to do.
        label: what people call the recipe.
        name: of the trial, and of what was done to its recipe.
        recipe: path of what to begin with, relative to the run directory.
        is_labelled: whether to measure accuracy.
        at_once: how many recipes are improved side by side.
    """

    step: ImprovementStep
    label: str
    name: str
    recipe: str
    is_labelled: bool
    at_once: int

    def run(self, state: SearchState) -> ImprovedEntry:
        """Improve the recipe, and return what the record says of it."""
        state.require_labelled(self.is_labelled)
        state.release()
        with state.side_by_side(self.at_once):
            return self._improve(state)

    def _improve(self, state: SearchState) -> ImprovedEntry:
        step, images = self.step, state.to_learn_from(self.step.images)
        folder = state.directory.improved(step.kind) / step.folder_name(self.name, len(images.tensor))
        calibrated, progress = self._calibrated(state), _naming(self.label, state.progress)
        if step.training is None:
            finish_calibrated(calibrated, images, folder, FinishingSettings(), progress)
        else:
            reconstruct_calibrated(calibrated, images, folder, step.training, progress=progress)
        path = folder / "recipe.json"
        return _entry(Recipe.load(path), path.relative_to(state.directory.path))

    def _calibrated(self, state: SearchState) -> CalibratedRecipe:
        """Take the operands of the recipe from its own file if it has one, else from the bank."""
        recipe = Recipe.load(state.directory.path / self.recipe)
        given = (recipe, state.images, state.labelled if self.is_labelled else None, state.held_out)
        if recipe.solved is not None:
            calibrated = CalibratedRecipe.from_file(state.session, *given)
        else:
            state.require_sites(recipe.sites)
            calibrated = CalibratedRecipe.from_bank(state.session, state.bank, *given)
        return replace(calibrated, full_precision=state.full_precision)


def _steps(settings: SearchSettings) -> list[ImprovementStep]:
    """List what the settings ask for, in order."""
    steps = [ImprovementStep("finished", FINISHING_IMAGES)] if settings.finish else []
    if settings.reconstruct:
        steps.append(ImprovementStep("reconstructed", settings.reconstruct_images, _training(settings)))
    return steps


def _training(settings: SearchSettings) -> ReconstructionSettings:
    training = ReconstructionSettings(seed=settings.seed)
    if settings.reconstruct_iterations is None:
        return training
    return replace(training, iterations=settings.reconstruct_iterations)


def _entry(recipe: Recipe, path: Path) -> ImprovedEntry:
    reference, score, training = recipe.improved, recipe.score, recipe.reconstruction
    assert reference is not None and score is not None  # noqa: S101, PT018 - both are filled
    return ImprovedEntry(
        recipe=path.as_posix(),
        images=reference.images,
        iterations=None if training is None else training.iterations,
        score=score,
    )


def _naming(label: str, progress: Progress) -> Progress:
    """Return progress that says which recipe is being finished or reconstructed."""

    def named(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase in ("finishing", "reconstruction"):
            event = replace(event, detail=f"{label}, {event.detail}")
        progress(event)

    return named
