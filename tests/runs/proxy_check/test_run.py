"""A whole check of the bundled model: what is measured, and how it goes on."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from autoq.calibration import CalibrationSettings
from autoq.errors import DataError, NonFiniteError, RunDirectoryError, SpaceError
from autoq.events import Event, PhaseAdvanced
from autoq.optimization.space import load_space, resolve_space
from autoq.recipe import SiteConfig, hash_sites
from autoq.runs.lock import hold_directory
from autoq.runs.proxy_check import run as proxy_check
from autoq.runs.proxy_check.ranks import ProxyCheck, load_rows
from autoq.runs.proxy_check.recipes import choose_recipes
from autoq.runs.proxy_check.run import (
    RECORD,
    ROWS,
    TABLE,
    ProxyCheckSettings,
    image_counts,
    make_check_settings,
    run_proxy_check,
)
from autoq.runs.settings import PLAIN_CALIBRATION
from autoq.scoring import Evaluator, measure_accuracy
from autoq.scoring.discrepancy import Score
from autoq.sensitivity.proxies import PROXIES, joint_proxies
from autoq.sensitivity.table import SensitivityTable
from tests.runs.small_run import PHOTOS, interrupt_at, small_session, trace_once, write_photos

SPACE = """
schema_version = 1

[[rules]]
site = ["patch_embed.proj", "blocks.0.*", "head"]
scheme = "uniform"
bits = [2, 3, 6]

[[rules]]
site = "blocks.0.attn.qkv"
operand = "input"
scheme = "instance_groups"
groups = [1, 4]
"""
RECIPES = 10
COUNTS = (4, 16)
IMAGES = 8
FILES = {".lock", "bank", "fisher.csv", "aph.csv", ROWS, TABLE, RECORD}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)
    monkeypatch.setattr(proxy_check, "COUNTS", COUNTS)


def settings_in(folder: Path, **changes: Any) -> ProxyCheckSettings:
    space = folder / "small.toml"
    space.write_text(SPACE, encoding="utf-8")
    write_photos(folder / "photos")
    values = {"space": str(space), "eval_data": str(folder / "photos"), "recipes": RECIPES, "calib_images": IMAGES}
    return make_check_settings(**{**PLAIN_CALIBRATION, **values, **changes})


@cache
def _finished() -> tuple[tempfile.TemporaryDirectory[str], Path, ProxyCheck]:
    holder = tempfile.TemporaryDirectory(prefix="autoq-tests-")
    folder = Path(holder.name)
    return holder, folder, run_proxy_check(settings_in(folder), folder / "run")


def finished() -> ProxyCheck:
    """An uninterrupted check; one for all tests, not to be written to."""
    return _finished()[2]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of a finished check, which has the same settings."""
    shutil.copytree(finished().out, tmp_path / "run")
    document = json.loads((tmp_path / "run" / RECORD).read_text())
    document["settings"] |= {"space": str(tmp_path / "small.toml"), "eval_data": str(tmp_path / "photos")}
    (tmp_path / "run" / RECORD).write_text(json.dumps(document))
    return tmp_path


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """All recipes that are evaluated, and on how many images."""
    finished()
    asked: list[tuple[str, int]] = []
    evaluate = Evaluator.evaluate

    def spy(self: Evaluator, sites: Mapping[str, SiteConfig], *rest: Any) -> Any:
        asked.append((hash_sites(sites), self.images))
        return evaluate(self, sites, *rest)

    monkeypatch.setattr(Evaluator, "evaluate", spy)
    return asked


def test_what_is_left() -> None:
    check = finished()
    out = Path(check.out)
    assert {path.name for path in out.iterdir()} == FILES
    assert len(check.rows) == RECIPES
    assert len((out / TABLE).read_text().splitlines()) == RECIPES + 1
    document = json.loads((out / RECORD).read_text())
    assert document["settings"]["recipes"] == RECIPES
    assert {name: document[name] for name in check.to_json()} == check.to_json()
    assert load_rows(out / ROWS)[0].origin == "full"
    assert len(load_rows(out / ROWS)) == RECIPES + 1


def test_every_measure_is_that_of_the_recipe() -> None:
    check = finished()
    session = small_session()
    images = session.calibration_images("digits", 16, 0)
    calibration = session.calibration_images("digits", IMAGES, 0)
    bank = session.bank(lambda: calibration, calibration.sha256, CalibrationSettings())
    resolved = resolve_space(load_space(str(_finished()[1] / "small.toml")), session.traced.sites)
    table = SensitivityTable.load(Path(check.out) / "fisher.csv")
    recipes = choose_recipes(session.traced.sites, resolved, table, RECIPES, 0)
    labelled = session.labelled_images(str(_finished()[1] / "photos"))
    assert labelled is not None
    assert [row.recipe for row in check.rows] == [hash_sites(recipe.sites) for recipe in recipes]
    for row, recipe in zip(check.rows, recipes, strict=True):
        assert (row.id, row.origin, row.bops) == (recipe.id, recipe.origin, recipe.bops)
        assert row.losses.keys() == {
            *(f"{proxy}_{count}" for proxy in joint_proxies() for count in (4, 8, 16)),
            "fisher_8",
            "aph_8",
        }
        for count in (4, 8, 16):
            score = Evaluator(session.model, bank, images.tensor[:count]).evaluate(recipe.sites)
            for proxy, loss_of in joint_proxies().items():
                assert row.losses[f"{proxy}_{count}"] == pytest.approx(loss_of(score), rel=1e-4, abs=1e-9)
        assert row.losses["fisher_8"] == pytest.approx(
            sum(table.loss(s, o, config) for s, operands in recipe.sites.items() for o, config in operands.items())
        )
        bank.apply_(recipe.sites)
        assert row.percent == measure_accuracy(session.model, labelled.batches()).metrics["top1_percent"]
    session.model.remove_()
    full = measure_accuracy(session.model, labelled.batches())
    assert check.full_precision_percent == full.metrics["top1_percent"]
    assert check.labelled_images == full.images == PHOTOS
    assert {rank.proxy for rank in check.ranks} == {*PROXIES, "bops"}
    assert len({row.percent for row in check.rows}) > 3


def test_a_killed_check_goes_on(tmp_path: Path, evaluated: list[tuple[str, int]]) -> None:
    def at_4(event: Event) -> bool:
        return isinstance(event, PhaseAdvanced) and event.phase == "search" and event.done >= 4

    with pytest.raises(KeyboardInterrupt):
        run_proxy_check(settings_in(tmp_path), tmp_path / "run", interrupt_at(at_4))
    assert len(load_rows(tmp_path / "run" / ROWS)) == 5
    assert not (tmp_path / "run" / TABLE).exists()
    check = run_proxy_check(settings_in(tmp_path), tmp_path / "run")
    assert (check.rows, check.ranks) == (finished().rows, finished().ranks)
    recipes = [hash_sites({}), *(row.recipe for row in check.rows)]
    assert sorted(evaluated) == sorted((recipe, images) for recipe in recipes for images in (4, 4, 8)), "none twice"


def test_nothing_is_measured_again(
    copy: Path, evaluated: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_check, "measure_answers", lambda *_: pytest.fail("measured"))
    assert run_proxy_check(settings_in(copy), copy / "run").ranks == finished().ranks
    assert evaluated == []


def test_more_recipes(copy: Path, evaluated: list[tuple[str, int]]) -> None:
    """Those along the front are kept; what is off it is drawn anew."""
    check = run_proxy_check(settings_in(copy, recipes=RECIPES + 2), copy / "run")
    assert len(check.rows) == RECIPES + 2
    assert 3 * 2 <= len(evaluated) < 3 * RECIPES
    assert len({row.id for row in check.rows}) == RECIPES + 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"eval_data": "digits/val"}, "eval_data"),
        ({"calib_images": 9}, "calib_images (was 8, is 9)"),
        ({"observer": "min_max"}, "observer"),
        ({"seed": 3}, "seed"),
        ({"reparameterize": True}, "reparameterize"),
    ],
)
def test_other_settings_are_refused(copy: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RunDirectoryError, match=r"holds a check of proxies with another .*; choose another") as caught:
        run_proxy_check(settings_in(copy, **changes), copy / "run")
    assert named in str(caught.value)


def test_other_labelled_images_are_refused(copy: Path) -> None:
    settings = settings_in(copy)
    next((copy / "photos").glob("*/*.png")).unlink()
    with pytest.raises(RunDirectoryError, match="with another labelled_images "):
        run_proxy_check(settings, copy / "run")


def test_directories_of_something_else_are_refused(copy: Path) -> None:
    run = copy / "run"
    with hold_directory(run), pytest.raises(RunDirectoryError, match="in use by process"):
        run_proxy_check(settings_in(copy), run)
    for damage in ("{", "[]", "{}", '{"settings": {"seed": "a"}, "fingerprints": {}}'):
        (run / RECORD).write_text(damage)
        with pytest.raises(RunDirectoryError, match=r"proxy_check\.json' is damaged: .*; delete it"):
            run_proxy_check(settings_in(copy), run)
    (run / RECORD).unlink()
    with pytest.raises(RunDirectoryError, match=r"holds proxy_check\.jsonl without proxy_check\.json"):
        run_proxy_check(settings_in(copy), run)
    (run / "run.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="holds a search; choose another --out"):
        run_proxy_check(settings_in(copy), run)


def test_wrong_input_leaves_nothing(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    (tmp_path / "unlabelled").mkdir()
    shutil.copy(next((tmp_path / "photos").glob("*/*.png")), tmp_path / "unlabelled" / "a.png")
    (tmp_path / "one.toml").write_text('schema_version = 1\n[[rules]]\nsite = "head"\nscheme = "uniform"\nbits = 4\n')
    for changes, error, words in (
        ({"data": "absent"}, DataError, "absent"),
        ({"eval_data": str(tmp_path / "unlabelled")}, DataError, "have no labels"),
        ({"space": "absent"}, SpaceError, "absent"),
        ({"space": str(tmp_path / "one.toml")}, SpaceError, "leaves this model 1 recipes, too few"),
    ):
        with pytest.raises(error, match=words):
            run_proxy_check(settings.model_copy(update=changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    with pytest.raises(SpaceError, match="--recipes: give 3 or more"):
        make_check_settings(recipes=2)


def test_models_that_are_not_finite(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = Evaluator.evaluate

    def collapse(self: Evaluator, sites: Mapping[str, SiteConfig], *rest: Any) -> Score:
        if self.images == 8 and sites:
            raise NonFiniteError("not finite")
        return evaluate(self, sites, *rest)

    monkeypatch.setattr(Evaluator, "evaluate", collapse)
    (copy / "run" / ROWS).unlink()
    check = run_proxy_check(settings_in(copy), copy / "run")
    for row, other in zip(check.rows, finished().rows, strict=True):
        for name, loss in row.losses.items():
            assert loss == (float("inf") if name.endswith("_16") else pytest.approx(other.losses[name], rel=1e-4))
    assert check.rank_of("kl", 16).tau is None


def test_labelled_images_that_do_not_fit_into_memory(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_check, "_HELD_BYTES", 100)
    (copy / "run" / ROWS).unlink()
    assert run_proxy_check(settings_in(copy), copy / "run").rows == finished().rows


@pytest.mark.parametrize(
    ("available", "calib_images", "counts"),
    [(256, 128, [4, 16, 128]), (16, 8, [4, 8, 16]), (10, 128, [4, 10]), (3, 2, [2]), (3, 8, [3]), (20, 16, [4, 16])],
)
def test_image_counts(available: int, calib_images: int, counts: list[int]) -> None:
    assert image_counts(available, calib_images) == counts
