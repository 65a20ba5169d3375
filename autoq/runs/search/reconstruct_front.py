"""The recipes of a front that were chosen, finished on unlabelled images once the search is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from autoq.calibration import Bank
from autoq.events import Event, PhaseStarted, Progress, ignore
from autoq.optimization.front import knee
from autoq.optimization.trials import EvaluatedTrial, best_trial
from autoq.recipe import Recipe
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.opening import RunInputs
from autoq.runs.reconstruct_recipe import reconstruct_calibrated
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.record import ReconstructedEntry, RunRecord
from autoq.runs.search.settings import SearchSettings


def chosen_trials(front: list[EvaluatedTrial], budget_bops: int) -> list[EvaluatedTrial]:
    """Choose what ``autoq export --pick best`` and ``--pick knee`` mean; one trial if they mean the same.

    Args:
        front: within the budget, cheapest first.
        budget_bops: the budget.
    """
    best = best_trial(front, budget_bops)
    if best is None:
        return []
    bend = front[knee([(float(trial.cost.bops), trial.score.kl_nats) for trial in front])]
    return [best] if bend.id == best.id else [best, bend]


def reconstruct_chosen(
    inputs: RunInputs,
    bank: Bank,
    directory: SearchDirectory,
    record: RunRecord,
    chosen: list[EvaluatedTrial],
    progress: Progress = ignore,
    on_finished: Callable[[Mapping[str, ReconstructedEntry]], None] = lambda _: None,
) -> None:
    """Reconstruct the recipes of trials, each in a folder of its own, where an interrupted one goes on.

    A folder is named after the trial and how it was reconstructed, so that another number of iterations or images
    neither is refused nor overwrites anything.

    Args:
        inputs: model and images of the search; recipes are scored on its images, and do not
            learn from those that were held out.
        bank: the search's bank.
        directory: of the run, in which the trials' recipes have been written.
        record: of the run.
        chosen: the trials.
        progress: told what happens.
        on_finished: called with all that is reconstructed after each recipe; what it then writes is not done again.

    Raises:
        RunDirectoryError: a folder cannot be written, or holds another reconstruction.
        RunError: training failed, or the quantized model produces NaN.
    """
    if not chosen:
        return
    settings = record.settings
    training = _training(settings)
    count, scoring = settings.reconstruct_images, inputs.scoring if inputs.is_held_out else None
    spare = 0 if scoring is None else len(scoring.tensor)
    images = inputs.given.calibration_images(inputs.session, settings, count, progress, spare)
    images = images if scoring is None else images.without(scoring, count)
    finished = dict(record.reconstructed)
    for trial in chosen:
        folder = directory.reconstructed / f"{trial.id}-{training.iterations}it-{len(images.tensor)}img"
        recipe = Recipe.load(directory.recipe_path(trial.id))
        calibrated = CalibratedRecipe.from_bank(inputs.session, bank, recipe, inputs.images, inputs.labelled, scoring)
        found = reconstruct_calibrated(
            calibrated, images, folder, training, progress=_naming(trial.label, progress)
        ).recipe
        finished[trial.id] = _entry(found, f"{directory.reconstructed.name}/{folder.name}/recipe.json")
        on_finished(finished)


def _training(settings: SearchSettings) -> ReconstructionSettings:
    training = ReconstructionSettings(seed=settings.seed)
    if settings.reconstruct_iterations is None:
        return training
    return replace(training, iterations=settings.reconstruct_iterations)


def _entry(recipe: Recipe, path: str) -> ReconstructedEntry:
    reference, score = recipe.reconstruction, recipe.score
    assert reference is not None and score is not None  # noqa: S101, PT018 - both are filled
    return ReconstructedEntry(recipe=path, iterations=reference.iterations, images=reference.images, score=score)


def _naming(label: str, progress: Progress) -> Progress:
    """Return progress that says which recipe is being reconstructed."""

    def named(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "reconstruction":
            event = replace(event, detail=f"{label}, {event.detail}")
        progress(event)

    return named
