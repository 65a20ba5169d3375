"""The chosen recipes of a search, finished and reconstructed: which, where, and that it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoq.events import BlockAdvanced, Event, PhaseAdvanced, PhaseStarted
from autoq.exporters import pick
from autoq.recipe import Recipe, hash_sites
from autoq.report.from_run import summarize
from autoq.runs.evaluate import evaluate_recipe
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.result import SearchOutcome
from autoq.runs.search.run import run_search
from autoq.scoring import Evaluator
from tests.runs.small_run import PHOTOS, TRIALS, finished_run, interrupt_at, small_settings, trace_once

BLOCKS = ["patch_embed.proj", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "head"]
QUICK: dict[str, Any] = {"reconstruct": True, "reconstruct_iterations": 2, "reconstruct_images": 16}


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A finished search, to be written to."""
    shutil.copytree(finished_run(), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Hashes of all recipes that are evaluated."""
    finished_run()
    hashes: list[str] = []
    evaluate = Evaluator.evaluate

    def spy(self: Evaluator, sites: Any, go_on: Any = None) -> Any:
        if self.images == 32:  # others on the 16 calibration images
            hashes.append(hash_sites(sites))
        return evaluate(self, sites, go_on)

    monkeypatch.setattr(Evaluator, "evaluate", spy)
    return hashes


def again(out: Path, progress: Callable[[Event], None] = lambda _: None, **changes: Any) -> SearchOutcome:
    return run_search(small_settings(finished_run().parent, **QUICK | changes), out, progress)


def picked(out: Path) -> list[str]:
    return list(dict.fromkeys(pick(out, choice).id for choice in ("best", "knee")))


def trained(events: list[Event]) -> list[str]:
    return [e.name for e in events if isinstance(e, BlockAdvanced) and e.done == e.iterations]


def test_a_finished_run_is_only_reconstructed(out: Path, evaluated: list[str]) -> None:
    before = {path: path.read_bytes() for path in (out / "recipes").iterdir()}
    expected = picked(out)
    assert len(expected) == 2, "too simple a front to tell"
    result = again(out)
    assert evaluated == [hash_sites(Recipe.load(out / "recipes" / f"{name}.json").sites) for name in expected]
    assert {path: path.read_bytes() for path in (out / "recipes").iterdir()} == before
    assert len(SearchDirectory(out).trials()) == TRIALS
    assert result.best == expected[0]
    assert {point.id for point in result.reconstructed} == set(expected)
    assert [point.bops for point in result.reconstructed] == sorted(point.bops for point in result.reconstructed)

    record = SearchDirectory(out).require()
    assert record.state == "finished"
    assert list(record.reconstructed) == expected
    shutil.rmtree(out / "bank")
    for point in result.reconstructed:
        searched, recipe = Recipe.load(out / "recipes" / f"{point.id}.json"), Recipe.load(point.recipe)
        assert (recipe.sites, recipe.cost) == (searched.sites, searched.cost)
        assert recipe.reconstruction is not None
        assert (recipe.reconstruction.iterations, recipe.reconstruction.images) == (2, 16)
        assert recipe.score is not None
        assert searched.score is not None
        assert recipe.score.labelled_images == PHOTOS
        assert recipe.score.kl_nats != searched.score.kl_nats
        assert recipe.score.calibration_kl_nats is not None
        assert (recipe.score.images, searched.score.images) == (32, 32), "none of which it learned from"
        assert record.reconstructed[point.id].score == recipe.score
        assert (point.kl_nats, point.metrics) == (recipe.score.kl_nats, recipe.score.metrics)
        assert evaluate_recipe(recipe).score.kl_nats == point.kl_nats, "needs no bank"


def test_the_same_command_answers_again_and_another_one_keeps_the_first(out: Path) -> None:
    first = again(out)
    events: list[Event] = []
    assert again(out, events.append) == first
    assert trained(events) == []
    assert again(out, events.append, reconstruct=False) == first, "what is there is told of"
    other = again(out, reconstruct_iterations=3)
    assert {point.id for point in other.reconstructed} == {point.id for point in first.reconstructed}
    assert all(Path(point.recipe).is_file() for point in (*first.reconstructed, *other.reconstructed))
    assert len({point.recipe for point in (*first.reconstructed, *other.reconstructed)}) == 4
    assert all(entry.iterations == 3 for entry in SearchDirectory(out).require().reconstructed.values())


def test_ctrl_c(out: Path, tmp_path: Path) -> None:
    """The search counts as finished; the recipe that was done and the blocks of the other are kept."""
    shutil.copytree(out, tmp_path / "whole")
    whole = again(tmp_path / "whole")
    first, second = picked(out)

    def in_the_middle(event: Event) -> bool:
        return isinstance(event, BlockAdvanced) and event.name == "blocks.1"

    with pytest.raises(KeyboardInterrupt):
        again(out, interrupt_at(in_the_middle, 2 + 1))
    record = SearchDirectory(out).require()
    assert (record.state, list(record.reconstructed)) == ("finished", [first])
    summary = summarize(out)
    assert not summary.interrupted
    assert [found.point.id for found in summary.improved] == [first]
    events: list[Event] = []
    resumed = again(out, events.append)
    assert trained(events) == BLOCKS[2:]
    details = [e.detail for e in events if isinstance(e, PhaseStarted) and e.phase == "reconstruction"]
    assert details == [f"{second.replace('-', ' ')}, 16 images of digits"]
    assert [(p.id, p.kl_nats, p.metrics) for p in resumed.reconstructed] == [
        (p.id, p.kl_nats, p.metrics) for p in whole.reconstructed
    ]
    for there, here in zip(whole.reconstructed, resumed.reconstructed, strict=True):
        for name in ("recipe.json", "recipe.safetensors"):
            assert Path(there.recipe).with_name(name).read_bytes() == Path(here.recipe).with_name(name).read_bytes()


def test_no_time_is_left_for_more_trials(out: Path, evaluated: list[str]) -> None:
    """A search that its time limit ended is not gone on with before its recipes are reconstructed."""
    document = json.loads((out / "run.json").read_text())
    document["settings"] |= {"trials": TRIALS + 4, "time_limit_seconds": 3600.0}
    (out / "run.json").write_text(json.dumps(document))
    again(out, trials=TRIALS + 4, time_limit_seconds=3600)
    assert len(SearchDirectory(out).trials()) == TRIALS
    assert len(evaluated) == 2
    again(out, trials=TRIALS + 4, time_limit_seconds=3601, reconstruct=False)
    assert len(SearchDirectory(out).trials()) == TRIALS + 4, "another limit asks for more"


def test_the_accuracy_of_what_is_chosen_is_known_before(out: Path) -> None:
    document = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(document | {"accuracy": {}}))
    again(out, eval_recipes=1)
    record = SearchDirectory(out).require()
    assert set(record.accuracy) == {*picked(out), "w3a3", "w4a4", "w6a6"}
    assert all(found.point.metric is not None for found in summarize(out).improved)


def test_it_is_told_that_the_search_is_over(out: Path) -> None:
    happened: list[str] = []

    def on_searched() -> None:
        assert SearchDirectory(out).require().state == "finished"
        happened.append("searched")

    def progress(event: Event) -> None:
        if isinstance(event, PhaseStarted) and event.phase in ("front", "reconstruction"):
            happened.append(event.phase)

    run_search(small_settings(finished_run().parent, **QUICK), out, progress, on_searched)
    assert happened == ["front", "searched", "reconstruction", "reconstruction"]
    happened.clear()
    run_search(small_settings(finished_run().parent), out, progress, on_searched)
    assert happened == ["front"], "nothing begins without --reconstruct"


def finishing(out: Path, progress: Callable[[Event], None] = lambda _: None, **changes: Any) -> SearchOutcome:
    return again(out, progress, **{"finish": True, "reconstruct": False} | changes)


def solved(events: list[Event]) -> list[str]:
    """Return the details of what was solved again, a recipe each."""
    return [e.detail for e in events if isinstance(e, PhaseStarted) and e.phase == "finishing"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finish on 16 images, which takes a moment."""
    monkeypatch.setattr("autoq.runs.search.improve_front.FINISHING_IMAGES", 16)


@pytest.mark.usefixtures("few")
def test_a_finished_run_is_only_finished_in_closed_form(out: Path, evaluated: list[str]) -> None:
    before = {path: path.read_bytes() for path in (out / "recipes").iterdir()}
    expected = picked(out)
    result = finishing(out)
    assert evaluated == [hash_sites(Recipe.load(out / "recipes" / f"{name}.json").sites) for name in expected]
    assert {path: path.read_bytes() for path in (out / "recipes").iterdir()} == before
    assert len(SearchDirectory(out).trials()) == TRIALS
    record = SearchDirectory(out).require()
    assert (record.state, list(record.finished), record.reconstructed) == ("finished", expected, {})
    assert {point.id for point in result.finished} == set(expected)
    shutil.rmtree(out / "bank")
    for point in result.finished:
        searched, recipe = Recipe.load(out / "recipes" / f"{point.id}.json"), Recipe.load(point.recipe)
        assert Path(point.recipe) == out / "finished" / f"{point.id}-16img" / "recipe.json"
        assert (recipe.sites, recipe.cost, recipe.reconstruction) == (searched.sites, searched.cost, None)
        assert recipe.finishing is not None
        assert recipe.score is not None
        assert searched.score is not None
        assert (recipe.score.labelled_images, recipe.score.images) == (PHOTOS, 32)
        assert recipe.score.kl_nats != searched.score.kl_nats
        entry = record.finished[point.id]
        assert (entry.score, entry.images, entry.iterations) == (recipe.score, 16, None)
        assert evaluate_recipe(recipe).score.kl_nats == point.kl_nats, "needs no bank"


@pytest.mark.usefixtures("few")
def test_what_is_finished_is_not_done_again_and_reconstructed_from_there(out: Path) -> None:
    first = finishing(out)
    events: list[Event] = []
    both = finishing(out, events.append, reconstruct=True)
    assert both.finished == first.finished
    assert solved(events) == []
    assert trained(events) == 2 * BLOCKS
    for there, here in zip(first.finished, both.reconstructed, strict=True):
        start, recipe = Recipe.load(there.recipe), Recipe.load(here.recipe)
        assert Path(here.recipe).parent.name == f"{Path(there.recipe).parent.name}-2it-16img"
        assert recipe.finishing == start.finishing
        assert recipe.reconstruction is not None
        identity = json.loads(Path(here.recipe).with_name("reconstruction.json").read_text())
        assert identity["recipe_sha256"] == start.content_hash, "it started from the finished recipe"
        assert evaluate_recipe(recipe).score.kl_nats == here.kl_nats
    assert [found.kind for found in summarize(out).improved] == [*2 * ["finished"], *2 * ["reconstructed"]]
    apart = again(out)
    assert {Path(point.recipe).parent.name for point in apart.reconstructed} == {
        f"{name}-2it-16img" for name in picked(out)
    }, "without finishing, from the recipe as searched"


@pytest.mark.usefixtures("few")
def test_ctrl_c_while_finishing(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "whole")
    whole = finishing(tmp_path / "whole")
    first, second = picked(out)
    with pytest.raises(KeyboardInterrupt):
        finishing(
            out, interrupt_at(lambda e: isinstance(e, PhaseAdvanced) and e.phase == "finishing" and e.done == 5, 2)
        )
    record = SearchDirectory(out).require()
    assert (record.state, list(record.finished)) == ("finished", [first])
    events: list[Event] = []
    resumed = finishing(out, events.append)
    assert solved(events) == [f"{second.replace('-', ' ')}, 16 images of digits"]
    assert [(p.id, p.kl_nats, p.metrics) for p in resumed.finished] == [
        (p.id, p.kl_nats, p.metrics) for p in whole.finished
    ]
