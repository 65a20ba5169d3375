"""Sensitivities of the bundled model: right, resumed, and kept apart from those of other settings."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from autoq.calibration import CalibrationSettings
from autoq.errors import DataError, ModelError, RunDirectoryError, SpaceError
from autoq.events import Event, PhaseAdvanced, PhaseStarted
from autoq.optimization.space import load_space, resolve_space
from autoq.recipe import SiteConfig
from autoq.runs.lock import hold_directory
from autoq.runs.sensitivity import (
    SensitivityResult,
    SensitivitySettings,
    make_sensitivity_settings,
    measure_into,
    options_of_space,
    run_sensitivity,
)
from autoq.runs.settings import PLAIN_CALIBRATION
from autoq.scoring import Evaluator
from autoq.sensitivity.measure import SensitivityTable
from tests.runs.small_run import interrupt_at, small_session, trace_once

SPACE = """
schema_version = 1

[[rules]]
site = "blocks.0.*"
scheme = "uniform"
bits = [2, 3, 4, 5, 6]

[[rules]]
site = "blocks.0.attn.qkv"
operand = "input"
scheme = "instance_groups"
groups = [1, 4]

[[rules]]
site = "blocks.0.attn.av"
operand = "lhs"
scheme = ["adalog", "uniform"]
log_base_numerator = ["fit", 26, 37]
"""
IMAGES = 8
FILES = {".lock", "bank", "sensitivity.csv", "sensitivity.json"}


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)


def settings_in(folder: Path, **changes: Any) -> SensitivitySettings:
    space = folder / "small.toml"
    space.write_text(SPACE, encoding="utf-8")
    return make_sensitivity_settings(**({"space": str(space), "calib_images": IMAGES, **PLAIN_CALIBRATION} | changes))


@cache
def _finished() -> tuple[tempfile.TemporaryDirectory[str], Path, SensitivityResult]:
    holder = tempfile.TemporaryDirectory(prefix="autoq-tests-")
    folder = Path(holder.name)
    return holder, folder, run_sensitivity(settings_in(folder), folder / "run")


def finished() -> SensitivityResult:
    """An uninterrupted measurement; one for all tests, not to be written to."""
    return _finished()[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of a finished measurement, which has the same settings."""
    shutil.copytree(finished().out, tmp_path / "run")
    document = json.loads((tmp_path / "run" / "sensitivity.json").read_text())
    document["settings"]["space"] = str(tmp_path / "small.toml")
    (tmp_path / "run" / "sensitivity.json").write_text(json.dumps(document))
    return tmp_path


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, SiteConfig]]:
    """All recipes that are evaluated."""
    finished()
    asked: list[Mapping[str, SiteConfig]] = []
    evaluate = Evaluator.evaluate

    def spy(self: Evaluator, sites: Mapping[str, SiteConfig], *rest: Any) -> Any:
        asked.append(sites)
        return evaluate(self, sites, *rest)

    monkeypatch.setattr(Evaluator, "evaluate", spy)
    return asked


def test_what_is_left() -> None:
    result = finished()
    out = Path(result.out)
    assert {path.name for path in out.iterdir()} == FILES
    assert SensitivityTable.load(out / "sensitivity.csv") == result.table
    sites = [site for site, _ in result.operands]
    assert sites == sorted(sites, key=[site.name for site in small_session().traced.sites].index)
    assert list(dict.fromkeys((row.site, row.operand) for row in result.table.rows)) == list(result.operands)


def test_losses_are_those_of_each_option_alone() -> None:
    result = finished()
    session = small_session()
    images = session.calibration_images("digits", IMAGES, 0)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings())
    evaluator = Evaluator(session.model, bank, images.tensor)
    resolved = resolve_space(load_space(_finished()[1] / "small.toml"), session.traced.sites)
    assert {row.option for row in result.table.rows} == set(options_of_space(resolved))
    assert len(result.table.rows) == len(options_of_space(resolved))
    for row in result.table.rows[:: len(result.table.rows) // 12]:
        score = evaluator.evaluate({row.site: {row.operand: row.config}})
        if row.measured:
            assert row.loss == pytest.approx(max(score.kl_nats, 0), rel=1e-4, abs=1e-9)
    worst = {bits: max(r.loss for r in result.table.rows if r.config.bits == bits) for bits in (2, 6)}
    assert worst[2] > 10 * worst[6]


def test_in_the_order_of_the_model(tmp_path: Path, evaluated: list[Mapping[str, SiteConfig]]) -> None:
    result = run_sensitivity(settings_in(tmp_path), tmp_path / "run")
    stage_of = small_session().model.stage_of
    stages = [
        stage_of[site, operand] for sites in evaluated for site, operands in sites.items() for operand in operands
    ]
    assert stages == sorted(stages)
    assert len(evaluated) == sum(row.measured for row in result.table.rows)
    assert result.table == finished().table


@pytest.mark.parametrize("phase", ["calibration", "sensitivity"])
def test_a_killed_measurement_goes_on(tmp_path: Path, phase: str, evaluated: list[Mapping[str, SiteConfig]]) -> None:
    def at_20(event: Event) -> bool:
        return isinstance(event, PhaseAdvanced) and event.phase == phase and event.done >= 20

    with pytest.raises(KeyboardInterrupt):
        run_sensitivity(settings_in(tmp_path), tmp_path / "run", interrupt_at(at_20))
    before = len(evaluated)
    if phase == "sensitivity":
        kept = SensitivityTable.load(tmp_path / "run" / "sensitivity.csv")
        assert sum(row.measured for row in kept.rows) == before > 0
    assert run_sensitivity(settings_in(tmp_path), tmp_path / "run").table == finished().table
    assert len(evaluated) == sum(row.measured for row in finished().table.rows)


def test_nothing_is_measured_again(copy: Path, evaluated: list[Mapping[str, SiteConfig]]) -> None:
    assert run_sensitivity(settings_in(copy), copy / "run").table == finished().table
    assert evaluated == []


def test_the_rest_can_be_measured_later(copy: Path, evaluated: list[Mapping[str, SiteConfig]]) -> None:
    rows = finished().table.rows
    table = run_sensitivity(settings_in(copy, exhaustive=True), copy / "run").table
    assert all(row.measured for row in table.rows)
    assert len(evaluated) == sum(not row.measured for row in rows) > 0
    assert run_sensitivity(settings_in(copy), copy / "run").table == table, "and stays"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"proxy": "mse"}, "proxy (was 'kl', is 'mse')"),
        ({"calib_images": 9}, "calib_images (was 8, is 9)"),
        ({"observer": "min_max"}, "observer"),
        ({"seed": 3}, "seed"),
        ({"reparameterize": True}, "reparameterize"),
    ],
)
def test_other_settings_are_refused(copy: Path, changes: dict[str, Any], named: str) -> None:
    before = (copy / "run" / "sensitivity.csv").read_bytes()
    with pytest.raises(RunDirectoryError, match=r"holds sensitivities with another .*; choose another --out") as caught:
        run_sensitivity(settings_in(copy, **changes), copy / "run")
    assert named in str(caught.value)
    assert (copy / "run" / "sensitivity.csv").read_bytes() == before


def test_another_space_under_the_same_name_is_refused(copy: Path) -> None:
    settings = settings_in(copy)
    (copy / "small.toml").write_text(SPACE.replace("5, 6", "5, 7"))
    with pytest.raises(RunDirectoryError, match="with another space "):
        run_sensitivity(settings, copy / "run")


def test_directories_of_something_else_are_refused(copy: Path) -> None:
    run = copy / "run"
    (run / "sensitivity.json").write_text("{")
    with pytest.raises(RunDirectoryError, match=r"sensitivity\.json' is damaged: .*; delete it"):
        run_sensitivity(settings_in(copy), run)
    (run / "sensitivity.json").unlink()
    with pytest.raises(RunDirectoryError, match=r"holds sensitivity\.csv without sensitivity\.json"):
        run_sensitivity(settings_in(copy), run)
    (run / "run.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="holds a search; choose another --out"):
        run_sensitivity(settings_in(copy), run)
    with pytest.raises(RunDirectoryError, match="cannot write to directory"):
        run_sensitivity(settings_in(copy), run / "run.json")


def test_unusable_directories_are_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoq.runs.sensitivity.Session.open", lambda *_: pytest.fail("loaded"))
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"cannot write to directory .*: Not a directory; choose another --out"):
        run_sensitivity(settings_in(tmp_path), tmp_path / "file")


def test_a_directory_in_use_is_refused(copy: Path) -> None:
    with hold_directory(copy / "run"), pytest.raises(RunDirectoryError, match="in use by process"):
        run_sensitivity(settings_in(copy), copy / "run")


def test_wrong_input_leaves_nothing(tmp_path: Path) -> None:
    for changes, error in (
        ({"data": "absent"}, DataError),
        ({"space": "absent"}, SpaceError),
    ):
        with pytest.raises(error):
            run_sensitivity(settings_in(tmp_path, **changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(SpaceError, match=r"unknown proxy 'kll'; there are kl, .*Did you mean 'kl'"):
        settings_in(tmp_path, proxy="kll")
    with pytest.raises(SpaceError, match="--observer: unknown observer 'best'"):
        settings_in(tmp_path, observer="best")


def test_models_that_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(ModelError):
        run_sensitivity(settings_in(tmp_path, model="vit_digitz"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("proxy", ["mse", "agreement"])
def test_other_proxies(tmp_path: Path, proxy: str) -> None:
    table = run_sensitivity(settings_in(tmp_path, proxy=proxy), tmp_path / "run").table
    assert (table.proxy, table.images) == (proxy, IMAGES)
    assert max(row.loss for row in table.rows) > 0
    assert [row.loss for row in table.rows] != [row.loss for row in finished().table.rows]


@pytest.mark.parametrize(("proxy", "passes"), [("aph", 2), ("fisher", 1)])
def test_without_evaluations(
    tmp_path: Path, proxy: str, passes: int, evaluated: list[Mapping[str, SiteConfig]]
) -> None:
    events: list[Event] = []
    table = run_sensitivity(settings_in(tmp_path, proxy=proxy), tmp_path / "run", events.append).table
    assert evaluated == []
    assert all(row.measured for row in table.rows)
    assert {row.option for row in table.rows} == {row.option for row in finished().table.rows}
    assert all(row.loss > 0 for row in table.rows)
    assert PhaseStarted("sensitivity", passes * IMAGES) in events
    assert PhaseAdvanced("sensitivity", passes * IMAGES) in events
    events.clear()
    assert run_sensitivity(settings_in(tmp_path, proxy=proxy), tmp_path / "run", events.append).table == table
    assert PhaseStarted("sensitivity", passes * IMAGES) not in events, "kept"


def test_with_a_bank_and_evaluator_of_ones_own(tmp_path: Path) -> None:
    session = small_session()
    images = session.calibration_images("digits", IMAGES, 0)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings())
    evaluator = Evaluator(session.model, bank, images.tensor)
    given = {"bank": bank, "images": images.tensor, "task": session.task}
    measure = partial(measure_into, evaluator=lambda: evaluator, **given)
    options = [row.option for row in finished().table.rows if row.site == "blocks.0.attn.qkv"]
    events: list[Event] = []
    path = tmp_path / "sensitivity.csv"
    table = measure(path, options[::-1], proxy="kl", progress=events.append)
    assert {row.option for row in table.rows} == set(options)
    for row in table.rows:
        assert row.loss == pytest.approx(finished().table.loss(*row.option), rel=1e-4, abs=1e-9)
    assert events[0] == PhaseStarted("sensitivity", len(options))
    assert events[-1] == PhaseAdvanced("sensitivity", len(options))
    assert SensitivityTable.load(path) == table
    with pytest.raises(SpaceError, match="unknown proxy"):
        measure(path, options, proxy="loss")
    with pytest.raises(RunDirectoryError, match="delete them"):
        measure(path, options, proxy="mse")

    def refused() -> Evaluator:
        raise AssertionError("full precision is run for nobody")

    alone = measure_into(tmp_path / "fisher.csv", options[:2], evaluator=refused, proxy="fisher", **given)
    assert {row.option for row in alone.rows} == set(options[:2])


def test_rescaled_layer_norms(tmp_path: Path) -> None:
    table = run_sensitivity(settings_in(tmp_path, reparameterize=True), tmp_path / "run").table
    assert table != finished().table
    assert run_sensitivity(settings_in(tmp_path, reparameterize=True), tmp_path / "run").table == table
