"""What options lose alone, and the first recipe of a search."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.events import Event, FirstRecipe, PhaseAdvanced, TrialFinished
from autoq.optimization.storage import load_trials
from autoq.recipe import Recipe
from autoq.runs.search.directory import STUDY_NAME, SearchDirectory
from autoq.runs.search.run import run_search
from autoq.sensitivity.proxies import FISHER
from autoq.sensitivity.table import SensitivityTable
from tests.runs.small_run import SPACE, small_settings, trace_once

SCHEMES = SPACE.replace('scheme = "adalog"', 'scheme = ["adalog", "uniform"]')


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


def test_the_exact_allocation_is_on_disk_before_anything_else_is_evaluated(tmp_path: Path) -> None:
    seen: list[Event] = []
    recipes: list[list[str]] = []

    def progress(event: Event) -> None:
        seen.append(event)
        if isinstance(event, FirstRecipe):
            recipes.append([path.name for path in (tmp_path / "run" / "recipes").iterdir()])
            assert Recipe.load(event.path).score is not None

    settings, out = small_settings(tmp_path, time_limit_seconds=1e-3), tmp_path / "run"
    run_search(settings, out, progress)
    assert recipes == [["trial-0.json"]], "told of once"
    first = next(number for number, event in enumerate(seen) if isinstance(event, FirstRecipe))
    assert not any(isinstance(event, TrialFinished) for event in seen[:first])
    done = [event.done for event in seen[first:] if isinstance(event, PhaseAdvanced) and event.phase == "sensitivity"]
    assert done[-1] == settings.calib_images, "sensitivities are measured further after it"
    assert done[0] > settings.calib_images // 2
    again: list[Event] = []
    run_search(settings, out, again.append)
    assert not any(isinstance(event, FirstRecipe) for event in again), "it is there"


def test_where_sensitivities_are_minimised_all_trials_have_them_of_all_images(tmp_path: Path) -> None:
    """So there is no allocation by the first few: the first recipe is that of the whole table."""
    events: list[Event] = []
    run_search(small_settings(tmp_path, proxy=FISHER, trials=6), tmp_path / "run", events.append)
    (first,) = (number for number, event in enumerate(events) if isinstance(event, FirstRecipe))
    advanced = [
        n for n, event in enumerate(events) if isinstance(event, PhaseAdvanced) and event.phase == "sensitivity"
    ]
    assert max(advanced) < first
    origins = [trial.user_attrs["origin"] for trial in load_trials(tmp_path / "run" / "study.log", STUDY_NAME)]
    assert origins.count("allocation") == 1


@pytest.mark.parametrize(("sensitivity", "proxy"), [("mse", FISHER), ("aph", "aph")])
def test_schemes_are_compared_alone_where_the_sampler_needs_no_sensitivities(
    tmp_path: Path, sensitivity: str, proxy: str
) -> None:
    """By the loss of the settings if it adds up, else by ``fisher``."""
    settings = small_settings(tmp_path, sampler="uniform", sensitivity=sensitivity, trials=6)
    Path(settings.space).write_text(SCHEMES, encoding="utf-8")
    events: list[Event] = []
    run_search(settings, tmp_path / "run", events.append)
    assert SensitivityTable.load(SearchDirectory(tmp_path / "run").sensitivities).proxy == proxy
    assert not any(isinstance(event, FirstRecipe) for event in events)
