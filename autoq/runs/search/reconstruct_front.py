"""The recipes of a front that were chosen, finished on unlabelled images once the search is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

from autoq.calibration import Bank
from autoq.events import Event, PhaseStarted, Progress, ignore
from autoq.recipe import Recipe
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.images import CalibrationImages, LabelledImages
from autoq.runs.reconstruct import finish_recipe
from autoq.runs.search.directory import RunDirectory
from autoq.runs.search.record import ReconstructedEntry, RunRecord
from autoq.runs.session import Session
from autoq.search.front import knee
from autoq.search.trials import EvaluatedTrial, best_trial


def chosen_trials(front: list[EvaluatedTrial], budget_bops: int) -> list[EvaluatedTrial]:
    """What ``autoq export --pick best`` and ``--pick knee`` mean; one trial if they mean the same.

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
    session: Session,
    bank: Bank,
    directory: RunDirectory,
    record: RunRecord,
    chosen: list[EvaluatedTrial],
    scored_on: CalibrationImages,
    labelled: LabelledImages | None,
    progress: Progress = ignore,
    on_finished: Callable[[Mapping[str, ReconstructedEntry]], None] = lambda _: None,
) -> None:
    """Reconstruct the recipes of trials, each in a folder of its own, where an interrupted one goes on.

    A folder is named after the trial and how it was reconstructed, so that another number of iterations or images
    neither is refused nor overwrites anything.

    Args:
        session: the search's model.
        bank: the search's bank.
        directory: of the run, in which the trials' recipes have been written.
        record: of the run.
        chosen: the trials.
        scored_on: the calibration images.
        labelled: images to measure accuracy on, or None.
        progress: told what happens.
        on_finished: called with all that is reconstructed after each recipe; what it then writes is not done again.

    Raises:
        RunDirectoryError: a folder cannot be written, or holds another reconstruction.
        RunError: training failed, or the quantized model produces NaN.
    """
    settings = record.settings
    training = ReconstructionSettings(seed=settings.seed)
    if settings.reconstruct_iterations is not None:
        training = replace(training, iterations=settings.reconstruct_iterations)

    @cache
    def images() -> CalibrationImages:
        progress(PhaseStarted("images", settings.reconstruct_images, settings.data))
        return session.calibration_images(settings.data, settings.reconstruct_images, settings.seed)

    finished = dict(record.reconstructed)
    for trial in chosen:
        folder = f"{trial.id}-{training.iterations}it-{len(images().tensor)}img"
        found = finish_recipe(
            session,
            bank,
            Recipe.load(directory.recipe_path(trial.id)),
            images(),
            directory.reconstructed / folder,
            training,
            scored_on=scored_on.tensor,
            labelled=labelled,
            progress=_naming(trial.label, progress),
        ).recipe
        reference, score = found.reconstruction, found.score
        assert reference is not None and score is not None  # noqa: S101, PT018 - both are filled
        finished[trial.id] = ReconstructedEntry(
            recipe=f"{directory.reconstructed.name}/{folder}/recipe.json",
            iterations=reference.iterations,
            images=reference.images,
            score=score,
        )
        on_finished(finished)


def _naming(label: str, progress: Progress) -> Progress:
    """Progress that says which recipe is being reconstructed."""

    def named(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase == "reconstruction":
            event = replace(event, detail=f"{label}, {event.detail}")
        progress(event)

    return named
