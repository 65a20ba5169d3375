"""The recipes of a front that were chosen, finished or reconstructed on unlabelled images once the search is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autoq.calibration import Bank
from autoq.cost import Limits
from autoq.events import Event, PhaseStarted, Progress, ignore
from autoq.optimization.trials import EvaluatedTrial, best_trial, knee_trial
from autoq.recipe import Recipe
from autoq.reconstruction.finishing import FinishingSettings
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.finish import FINISHING_IMAGES, finish_calibrated
from autoq.runs.images import CalibrationImages, to_learn_from
from autoq.runs.opening import RunInputs
from autoq.runs.reconstruct_recipe import reconstruct_calibrated
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.record import ImprovedEntry, ImprovedKind, RunRecord
from autoq.runs.search.settings import SearchSettings
from autoq.scoring.accuracy import FullPrecision

OnImproved = Callable[[ImprovedKind, Mapping[str, ImprovedEntry]], None]
"""Called with a kind and all recipes of that kind, by the id of the trial that each was made from."""


def chosen_trials(front: list[EvaluatedTrial], limits: Limits) -> list[EvaluatedTrial]:
    """Choose what ``autoq export --pick best`` and ``--pick knee`` mean; one trial if they mean the same.

    Args:
        front: within the budget, cheapest first.
        limits: the budgets.
    """
    best = best_trial(front, limits)
    if best is None:
        return []
    bend = knee_trial(front)
    return [best] if bend.id == best.id else [best, bend]


def improve_chosen(
    inputs: RunInputs,
    bank: Bank,
    directory: SearchDirectory,
    record: RunRecord,
    chosen: list[EvaluatedTrial],
    full_precision: FullPrecision,
    progress: Progress = ignore,
    on_improved: OnImproved = lambda *_: None,
) -> None:
    """Finish and reconstruct the recipes of trials, as the settings ask, each in a folder of its own.

    What is finished is reconstructed from there. A folder is named after the trial and what was done, so that other
    settings neither are refused nor overwrite anything; an interrupted reconstruction goes on in it.

    Args:
        inputs: model and images of the search; recipes are scored on its images, and do not
            learn from those that were held out.
        bank: the search's bank.
        directory: of the run, in which the trials' recipes have been written.
        record: of the run.
        chosen: the trials.
        full_precision: of the model, on the labelled images.
        progress: told what happens.
        on_improved: called after each recipe with all that is finished, or all that is reconstructed; what it then
            writes is not done again.

    Raises:
        RunDirectoryError: a folder cannot be written, or holds something else.
        RunError: training failed, or the quantized model produces NaN.
    """
    names = {trial.id: trial.id for trial in chosen}
    latest = {trial.id: Recipe.load(directory.recipe_path(trial.id)) for trial in chosen}
    for step in _steps(record.settings) if chosen else ():
        images = _images(inputs, record.settings, step.images, progress)
        known: dict[str, ImprovedEntry] = dict(getattr(record, step.kind))
        for trial in chosen:
            names[trial.id] += f"{step.suffix}-{len(images.tensor)}img"
            folder = directory.improved(step.kind) / names[trial.id]
            calibrated = replace(_calibrated(inputs, bank, latest[trial.id]), full_precision=full_precision)
            step.improve(calibrated, images, folder, _naming(trial.label, progress))
            latest[trial.id] = recipe = Recipe.load(folder / "recipe.json")
            known[trial.id] = _entry(recipe, folder.relative_to(directory.path) / "recipe.json")
            on_improved(step.kind, known)


@dataclass(frozen=True)
class _Step:
    """What is done to the chosen recipes.

    Attributes:
        kind: what a recipe then is.
        images: unlabelled images to learn from, at most.
        improve: does it to a recipe, and writes ``recipe.json`` to a folder.
        suffix: names the settings in the folder's name.
    """

    kind: ImprovedKind
    images: int
    improve: Callable[[CalibratedRecipe, CalibrationImages, Path, Progress], object]
    suffix: str = ""


def _steps(settings: SearchSettings) -> list[_Step]:
    """List what the settings ask for, in order."""
    steps = []
    if settings.finish:
        solving = FinishingSettings()
        steps.append(
            _Step(
                "finished",
                FINISHING_IMAGES,
                lambda recipe, images, out, progress: finish_calibrated(recipe, images, out, solving, progress),
            )
        )
    if settings.reconstruct:
        training = _training(settings)
        steps.append(
            _Step(
                "reconstructed",
                settings.reconstruct_images,
                lambda recipe, images, out, progress: reconstruct_calibrated(
                    recipe, images, out, training, progress=progress
                ),
                f"-{training.iterations}it",
            )
        )
    return steps


def _training(settings: SearchSettings) -> ReconstructionSettings:
    training = ReconstructionSettings(seed=settings.seed)
    if settings.reconstruct_iterations is None:
        return training
    return replace(training, iterations=settings.reconstruct_iterations)


def _images(inputs: RunInputs, settings: SearchSettings, count: int, progress: Progress) -> CalibrationImages:
    """Load images to learn from, none of those that were held out to score on."""

    def load(wanted: int, spare: int) -> CalibrationImages:
        return inputs.given.calibration_images(inputs.session, settings, wanted, progress, spare)

    return to_learn_from(load, count, inputs.held_out)


def _calibrated(inputs: RunInputs, bank: Bank, recipe: Recipe) -> CalibratedRecipe:
    """Take the operands of a recipe from its own file if it has one, else from the bank."""
    given = (recipe, inputs.images, inputs.labelled, inputs.held_out)
    if recipe.solved is None:
        return CalibratedRecipe.from_bank(inputs.session, bank, *given)
    return CalibratedRecipe.from_file(inputs.session, *given)


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
