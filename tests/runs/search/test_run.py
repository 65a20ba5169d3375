"""Whole searches on the bundled model: what they leave, and that nothing stops one from going on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

import autoq
from autoq.cost import uniform_bops
from autoq.errors import BudgetError, DataError, ModelError, RunDirectoryError, SpaceError
from autoq.events import Event, PhaseAdvanced, PhaseStarted, TrialFinished
from autoq.optimization.front import non_dominated
from autoq.optimization.space import load_space, resolve_space
from autoq.optimization.storage import load_trials, open_journal
from autoq.optimization.trials import EvaluatedTrial, evaluated_trials
from autoq.recipe import Recipe, hash_sites
from autoq.report.from_run import summarize
from autoq.runs.evaluate import evaluate_recipe
from autoq.runs.lock import hold_directory
from autoq.runs.search.directory import STUDY_NAME, SearchDirectory
from autoq.runs.search.result import SearchOutcome
from autoq.runs.search.run import run_search
from autoq.runs.search.settings import SearchSettings
from autoq.scoring import Evaluator
from autoq.sensitivity.table import SensitivityTable
from tests.runs.small_run import PHOTOS, TRIALS, finished_run, interrupt_at, small_session, small_settings, trace_once

SCORED = 32
UNIFORM_POINTS = ["w3a3", "w4a4", "w6a6"]
FIRST = ["trial 0", "trial 1", *UNIFORM_POINTS]


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Hashes of all recipes that are evaluated."""
    finished_run()  # which is compared with, and made by the first test that needs it
    hashes: list[str] = []
    evaluate = Evaluator.evaluate

    def spy(self: Evaluator, sites: Any, go_on: Any = None) -> Any:
        if self.images == SCORED:  # others on the calibration images
            hashes.append(hash_sites(sites))
        return evaluate(self, sites, go_on)

    monkeypatch.setattr(Evaluator, "evaluate", spy)
    return hashes


def trials_of(out: Path) -> list[EvaluatedTrial]:
    return evaluated_trials(load_trials(out / "study.log", STUDY_NAME))


def scores(out: Path, labels: list[str]) -> dict[str, Any]:
    return {trial.label: (trial.score, trial.cost) for trial in trials_of(out) if trial.label in labels}


def search(folder: Path, **changes: Any) -> SearchOutcome:
    return run_search(small_settings(folder, **changes), folder / "run")


def copied(folder: Path) -> tuple[Path, SearchSettings]:
    """A finished search that may be written to, and its settings."""
    shutil.copytree(finished_run(), folder / "run")
    return folder / "run", small_settings(finished_run().parent)


def check_finished(out: Path) -> None:
    """What every finished search has in common, whatever happened before."""
    record = SearchDirectory(out).require()
    assert record.state == "finished"
    trials = trials_of(out)
    assert len(trials) == TRIALS
    assert len({hash_sites(recipe_of(out, trial).sites) for trial in shown(out)}) == len(shown(out))
    assert scores(out, UNIFORM_POINTS) == scores(finished_run(), UNIFORM_POINTS)
    assert {path.stem for path in (out / "recipes").iterdir()} == {trial.id for trial in shown(out)}
    assert record.full_precision is not None
    assert record.accuracy.keys() >= {trial.id for trial in shown(out)}
    assert not [path for path in out.rglob(".*") if path.name != ".lock"], "no temporary files"


def shown(out: Path) -> list[EvaluatedTrial]:
    """The front within the budget, and the uniform points."""
    trials = trials_of(out)
    limit = SearchDirectory(out).require().budgets["bops"]
    affordable = [trial for trial in trials if trial.cost.bops <= limit]
    front = [affordable[i].id for i in non_dominated([(t.cost.bops, t.score.kl_nats) for t in affordable])]
    return [trial for trial in trials if trial.id in front or trial.origin == "uniform"]


def recipe_of(out: Path, trial: EvaluatedTrial) -> Recipe:
    return Recipe.load(out / "recipes" / f"{trial.id}.json")


def test_what_a_run_leaves() -> None:
    out = finished_run()
    check_finished(out)
    left = {".lock", "bank", "recipes", "run.json", "sensitivity.csv", "space.json", "study.log"}
    assert {path.name for path in out.iterdir()} == left
    assert {path.name for path in (out / "bank").iterdir()} == {"bank.json", "bank.safetensors"}
    first = trials_of(out)[: len(FIRST)]
    assert [trial.label for trial in first] == FIRST
    origins = ["allocation", "allocation", *["uniform"] * len(UNIFORM_POINTS)]
    assert [trial.origin for trial in first] == origins, "by a few images, by all"


def test_the_record() -> None:
    document = json.loads((finished_run() / "run.json").read_text())
    sites = small_session().traced.sites
    assert document["settings"]["calib_images"] == document["images"] == 16
    assert document["settings"]["seed"] == 0
    assert document["versions"]["autoq"] == autoq.__version__
    assert document["model"]["weights_sha256"] == small_session().loaded.weights_sha256
    assert document["budgets"] == {"bops": uniform_bops(sites, 4, 4)}
    assert document["uniform_8_8_cost"] == uniform_bops(sites, 8, 8)
    assert document["full_precision_bops"] == 32 * 32 * document["macs"]
    assert [site["name"] for site in document["sites"]] == [site.name for site in sites]
    assert set(document["fingerprints"]) == {
        "images_sha256",
        "scoring_sha256",
        "space_fingerprint",
        "bank_fingerprint",
    }
    assert document["scoring_images"] == SCORED
    assert document["fingerprints"]["images_sha256"] != document["fingerprints"]["scoring_sha256"]
    assert document["baseline_bits"] == [4, 4]
    assert document["full_precision"]["images"] == PHOTOS
    assert document["full_precision"]["top1_percent"] > 90
    assert document["seconds"] > 0


def test_recipes_say_what_was_measured() -> None:
    out = finished_run()
    record = SearchDirectory(out).require()
    for trial in shown(out):
        recipe = recipe_of(out, trial)
        assert recipe.cost == trial.cost == small_session().costs.cost(recipe.sites).record()
        assert recipe.score is not None
        assert recipe.score.kl_nats == trial.score.kl_nats
        assert recipe.score.calibration_kl_nats == record.calibration_kl_nats.get(trial.id)
        assert recipe.score.metrics == record.accuracy[trial.id].metrics
        assert recipe.calibration is not None
        assert (recipe.calibration.images, recipe.calibration.scoring_images) == (16, SCORED)
        assert recipe.score.images == SCORED
        assert recipe.calibration.bank_fingerprint == record.fingerprints["bank_fingerprint"]
        logarithmic = [c for operands in recipe.sites.values() for c in operands.values() if c.scheme == "adalog"]
        assert logarithmic
        assert all(config.log_base_numerator is not None for config in logarithmic), "fitted bases are spelled out"


def test_the_result(tmp_path: Path, evaluated: list[str]) -> None:
    result = search(tmp_path)
    assert len(evaluated) == len(set(evaluated)) == TRIALS
    check_finished(tmp_path / "run")
    assert result.out == str(tmp_path / "run")
    costs = [point.bops for point in result.front]
    assert costs == sorted(costs)
    assert max(costs) <= result.budget_bops
    best = min(result.front, key=lambda point: point.kl_nats)
    assert result.best == best.id
    affordable = [t for t in trials_of(tmp_path / "run") if t.cost.bops <= result.budget_bops]
    assert best.kl_nats == min(trial.score.kl_nats for trial in affordable)
    for point in result.front:
        assert Recipe.load(point.recipe).cost is not None

    evaluated.clear()
    assert search(tmp_path) == result, "the same command answers again"
    assert evaluated == []
    more = search(tmp_path, trials=TRIALS + 3)
    assert len(evaluated) == 3
    assert len(trials_of(tmp_path / "run")) == TRIALS + 3
    assert {point.id for point in more.front} | {point.id for point in result.front} <= {
        trial.id for trial in trials_of(tmp_path / "run")
    }


MLP_SPACE = """
schema_version = 1

[[rules]]
site = "blocks.0.mlp.*"
scheme = "uniform"
bits = [3, 4]

[[rules]]
operand = "weight"
site = "blocks.0.mlp.*"
granularity = "channel"
"""
PHASES: dict[str, tuple[Any, int]] = {
    "model": (lambda e: isinstance(e, PhaseStarted) and e.phase == "model", 1),
    "images": (lambda e: isinstance(e, PhaseStarted) and e.phase == "images", 1),
    "capture": (lambda e: isinstance(e, PhaseAdvanced) and e.phase == "capture", 1),
    "calibration": (lambda e: isinstance(e, PhaseAdvanced) and e.phase == "calibration", 20),
    "sensitivity": (lambda e: isinstance(e, PhaseAdvanced) and e.phase == "sensitivity", 1),
    "uniform": (lambda e: isinstance(e, TrialFinished), 2),
    "search": (lambda e: isinstance(e, TrialFinished), len(UNIFORM_POINTS) + 3),
    "front": (lambda e: isinstance(e, PhaseAdvanced) and e.phase == "front", 2),
}


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c(tmp_path: Path, phase: str, evaluated: list[str]) -> None:
    settings, out = small_settings(tmp_path), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_search(settings, out, interrupt_at(*PHASES[phase]))
    if phase in ("model", "images"):
        assert not out.exists()
    else:
        assert SearchDirectory(out).require().state == "interrupted"
        summary = summarize(out)
        assert summary.interrupted
        assert len(summary.points) == len(evaluated)
    if phase == "calibration":
        assert 20 <= len(json.loads((out / "bank" / "bank.json").read_text())["entries"]) < 100, (
            "what is solved is kept"
        )
    if phase in ("uniform", "search", "front"):
        assert {path.stem for path in (out / "recipes").iterdir()} >= {trial.id for trial in shown(out)}
    run_search(settings, out)
    check_finished(out)
    assert len(evaluated) == len(set(evaluated)) == TRIALS


@pytest.mark.slow
def test_kill(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    code = """
        import json, sys
        from autoq.runs.search.run import run_search
        from autoq.runs.search.settings import make_settings
        settings = make_settings(json.loads(sys.argv[1]))
        run_search(settings, sys.argv[2], lambda event: print(type(event).__name__, flush=True))
    """
    out = tmp_path / "run"
    arguments = (settings.model_dump_json(), str(out))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    assert process.stdout is not None
    finished = 0
    for line in process.stdout:
        finished += line.strip() == "TrialFinished"
        if finished == len(UNIFORM_POINTS) + 2:
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    watchdog.cancel()
    assert SearchDirectory(out).require().state == "running"
    assert len(trials_of(out)) >= finished, "no trial that was told of is lost"
    assert summarize(out).interrupted
    events: list[Event] = []
    run_search(settings, out, events.append)
    check_finished(out)
    assert not [event for event in events if isinstance(event, PhaseAdvanced) and event.phase == "calibration"], (
        "the bank was there"
    )


def test_other_settings_are_refused(tmp_path: Path) -> None:
    search(tmp_path, trials=6)
    before = (tmp_path / "run" / "run.json").read_text()
    with pytest.raises(RunDirectoryError, match=r"another seed \(was 0, is 1\)"):
        search(tmp_path, trials=6, seed=1)
    settings = small_settings(tmp_path, trials=6)
    space = Path(settings.space)
    space.write_text(space.read_text().replace("[3, 4, 6]", "[3, 4, 5]"))
    with pytest.raises(RunDirectoryError, match="another space_fingerprint"):
        run_search(settings, tmp_path / "run")
    assert (tmp_path / "run" / "run.json").read_text() == before


def test_labels_may_change(tmp_path: Path) -> None:
    search(tmp_path, trials=6)
    first = SearchDirectory(tmp_path / "run").require()
    search(tmp_path, trials=6, eval_data="digits/val")
    second = SearchDirectory(tmp_path / "run").require()
    assert first.full_precision is not None
    assert second.full_precision is not None
    assert (first.full_precision.images, second.full_precision.images) == (PHOTOS, 540)
    assert {accuracy.images for accuracy in second.accuracy.values()} == {540}


def test_a_run_in_use_is_refused(tmp_path: Path, evaluated: list[str]) -> None:
    out, settings = copied(tmp_path)
    with hold_directory(out), pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()}"):
        run_search(settings.model_copy(update={"trials": TRIALS + 2}), out)
    assert evaluated == []


def test_a_time_limit_leaves_a_finished_run(tmp_path: Path) -> None:
    result = search(tmp_path, time_limit_seconds=1e-3)
    assert [trial.label for trial in trials_of(tmp_path / "run")] == FIRST
    assert SearchDirectory(tmp_path / "run").require().state == "finished"
    assert result.best is not None


@pytest.mark.parametrize(("budget", "is_told"), [("1T", True), ("w8a8", False), ("50%", False)])
def test_a_budget_that_limits_nothing_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, budget: str, is_told: bool
) -> None:
    search(tmp_path, time_limit_seconds=1e-3, budget_bops=budget)
    assert ("is more than uniform w8a8 costs, which is 224 M BOPs" in caplog.text) is is_told


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        ({"budget_bops": "lots"}, BudgetError, "cannot read budget 'lots'"),
        ({"budget_bops": "w2a2"}, BudgetError, "the cheapest recipe in space"),
        ({"space": "vit_w2-9"}, SpaceError, "Did you mean 'vit_w2-8'?"),
        ({"data": "absent/images"}, DataError, "absent/images"),
        ({"eval_data": "absent/images"}, DataError, "absent/images"),
    ],
)
def test_wrong_input_leaves_nothing(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected.replace("?", r"\?")) as caught:
        run_search(small_settings(tmp_path, **changes), tmp_path / "runs" / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_the_least_budget_is_enough(tmp_path: Path) -> None:
    """The message about an unreachable budget names one that can be reached."""
    cheapest = uniform_bops(small_session().traced.sites, 3, 3)
    with pytest.raises(BudgetError) as caught:
        search(tmp_path, budget_bops=str(cheapest - 1))
    assert "costs 31.5 M BOPs (14.1% of uniform w8a8)" in str(caught.value)
    result = search(tmp_path, budget_bops=str(cheapest), trials=6)
    assert [point.id for point in result.front] == ["w3a3"]


def test_an_unknown_model_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(ModelError, match="vit_digitz"):
        search(tmp_path, model="vit_digitz")
    assert not (tmp_path / "run").exists()


def test_phases_come_in_order(tmp_path: Path) -> None:
    events: list[Event] = []
    run_search(small_settings(tmp_path), tmp_path / "run", events.append)
    phases = [event.phase for event in events if isinstance(event, PhaseStarted)]
    assert phases == ["model", "images", "calibration", "capture", "sensitivity", "search", "score", "front"]
    for phase in ("capture", "calibration", "sensitivity", "score", "front"):
        total = next(e.total for e in events if isinstance(e, PhaseStarted) and e.phase == phase)
        done = [e.done for e in events if isinstance(e, PhaseAdvanced) and e.phase == phase]
        assert done == sorted(set(done))
        assert done[-1] == total


def test_layer_output_search_on_reparameterized_layer_norms(tmp_path: Path) -> None:
    """The recipes of such a run say so, and are measured again from their bank, and without it, to the same score."""
    (tmp_path / "mlp.toml").write_text(MLP_SPACE)
    changes = {
        "space": str(tmp_path / "mlp.toml"),
        "observer": "fpcs",
        "rotate": True,
        "reparameterize": True,
        "budget_bops": "4G",
    }
    settings = small_settings(tmp_path, **changes, trials=4)
    with pytest.raises(KeyboardInterrupt):
        run_search(settings, tmp_path / "run", interrupt_at(PHASES["search"][0], 2))
    result = run_search(settings, tmp_path / "run")
    path = Path(result.front[-1].recipe)
    recipe = Recipe.load(path)
    assert recipe.reparameterized["blocks.0.norm2"] == 8
    assert "blocks.0.attn.av" in recipe.rotated
    assert recipe.calibration is not None
    assert recipe.calibration.observer == "fpcs"
    assert recipe.score is not None
    for folder in (path.parent, tmp_path / "nowhere"):
        assert evaluate_recipe(recipe.located(folder)).score.kl_nats == recipe.score.kl_nats


@pytest.mark.parametrize("proxy", ["fisher", "mse"])
def test_another_proxy(tmp_path: Path, proxy: str) -> None:
    """Recipes are ranked by the proxy; those that come first have all that a recipe of any search has."""
    result = search(tmp_path, proxy=proxy, trials=10)
    study = optuna.load_study(study_name=None, storage=open_journal(tmp_path / "run" / "study.log"))
    assert study.metric_names == ["bops", "output_mse" if proxy == "mse" else "kl_nats"]
    trials = study.get_trials(deepcopy=False)
    found = trials_of(tmp_path / "run")
    assert result.best in {trial.id for trial in found}
    by_hash = {trial.user_attrs["recipe_hash"]: trial for trial in trials if "score" in trial.user_attrs}
    if proxy == "mse":
        assert len(trials) == 10
        assert all(trial.values[1] == trial.user_attrs["score"]["output_mse"] for trial in trials)
    else:
        assert len(trials) == 10 + len(by_hash) - 1, "evaluated at the end, but for the first, which is at once"
        table = SensitivityTable.load(tmp_path / "run" / "sensitivity.csv")
        first = trials[0]
        space = resolve_space(load_space(tmp_path / "small.toml"), small_session().traced.sites)
        parts = [table.loss(s, o, c) for s, ops in space.sites_for(first.params).items() for o, c in ops.items()]
        assert first.values[1] == pytest.approx(sum(parts))
    for point in result.front:
        recipe = Recipe.load(point.recipe)
        assert recipe.score is not None
        assert recipe.score.kl_nats == point.kl_nats
    assert search(tmp_path, proxy=proxy, trials=10).front == result.front, "the same command answers again"


@pytest.mark.parametrize("sampler", ["ilp", "lampq", "greedy", "uniform", "nsga2"])
def test_other_samplers(tmp_path: Path, sampler: str) -> None:
    result = search(tmp_path, sampler=sampler, trials=8)
    assert result.best is not None
    assert (tmp_path / "run" / "sensitivity.csv").exists() == (sampler in ("ilp", "lampq", "greedy"))
