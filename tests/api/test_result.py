"""What a search answers: tables, recipes, pictures, its directory."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import autoq
from autoq.errors import BudgetError, InputError, RunDirectoryError
from tests.api.models import IMAGES, LABELS, SETTINGS, make


@pytest.fixture(scope="module")
def result() -> autoq.SearchResult:
    return autoq.search(make(), IMAGES, "w4a4", labelled=(IMAGES, LABELS), **SETTINGS)


def test_the_front_is_a_table_with_one_row_a_recipe(result: autoq.SearchResult) -> None:
    front = result.front
    assert front.index.name == "id"
    assert {"bops", "kl_nats", "agreement_percent", "weight_bytes", "top1_percent"} <= set(front.columns)
    assert front.bops.is_monotonic_increasing
    assert front.kl_nats.is_monotonic_decreasing
    assert front.bops.max() <= result.budgets["bops"]
    best = result.recipe("best", version="searched")
    assert best.cost is not None
    assert best.score is not None
    assert best.score.kl_nats == front.kl_nats.min()
    assert best.cost.bops == front.bops.max()
    assert len(result.trials) >= SETTINGS["trials"]
    assert result.recipe(front.index[0]).sites == result.recipe(f"{front.bops.iloc[0]}").sites
    assert f"SearchResult({str(result.folder)!r})" in repr(result)


def test_a_result_can_be_saved_and_outlives_its_temporary_directory(tmp_path: Path) -> None:
    result = autoq.search(make(), IMAGES, **SETTINGS)
    result.save(tmp_path / "saved")
    folder, best = result.folder, result.best
    del result
    assert folder.exists(), "the recipe keeps its bank"
    assert autoq.quantize(make(), best)(IMAGES[:2])["logits"].shape == (2, 5)
    del best
    assert not folder.exists()
    saved = autoq.SearchResult(tmp_path / "saved")
    assert (tmp_path / "saved" / "report.html").exists()
    assert autoq.quantize(make(), saved.best).recipe == saved.best
    with pytest.raises(RunDirectoryError, match="something is there"):
        saved.save(tmp_path / "saved")


def test_a_picture_is_drawn_on_the_users_axes(result: autoq.SearchResult) -> None:
    from matplotlib.figure import Figure

    for measure in (None, "top1_percent"):
        axes = Figure().subplots()
        assert result.plot_front(measure, ax=axes) is axes
        assert "BOPs" in axes.get_xlabel()
        assert len(axes.collections) >= 2
    with pytest.raises(InputError, match="'speed' was not measured, kl_nats, top1_percent was"):
        result.plot_front("speed")


def test_the_other_pictures(result: autoq.SearchResult) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    left, right = Figure().subplots(1, 2)
    assert result.plot_history(left) is left
    assert result.plot_bits("w3a3", right) is right
    cells = result.plot_sensitivity()
    assert len(cells.get_yticklabels()) == sum(len(site.operands) for site in result.summary.sites if site.macs)
    plt.close(cells.figure)


def test_before_the_first_trial(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is no run directory"):
        _ = autoq.SearchResult(tmp_path).front
    with pytest.raises(BudgetError, match="no recipe was evaluated yet"):
        _ = autoq.SearchResult(tmp_path).best


def test_recipes_by_choice(result: autoq.SearchResult) -> None:
    assert result.recipe("best") == result.best
    assert result.recipe("knee") == result.knee
    assert result.recipe("w3a3").sites["head"]["weight"].bits == 3
    with pytest.raises(BudgetError, match="Did you mean 'best'"):
        result.recipe("bets")
    with pytest.raises(BudgetError, match="the cheapest is"):
        result.recipe("1")


def test_the_best_is_taken_in_its_version_of_least_discrepancy() -> None:
    images = torch.randn(72, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    found = autoq.search(make(), images, **SETTINGS)
    best = found.outcome.best
    assert best is not None
    searched, finished = (found.recipe("best", version=version) for version in ("searched", "finished"))
    assert searched.finishing is None
    assert finished.finishing is not None
    assert finished.finishing.images == 72 - 32, "none of those that score"
    assert searched.score is not None
    assert finished.score is not None
    better = finished if finished.score.kl_nats <= searched.score.kl_nats else searched
    assert found.recipe(best) == found.best == better
    assert autoq.quantize(make(), found.best)(IMAGES[:2])["logits"].shape == (2, 5)
    assert len(found.outcome.finished) >= 1
    with pytest.raises(RunDirectoryError, match="is not reconstructed, nothing is"):
        found.recipe("best", version="reconstructed")


def test_an_unfinished_run_can_be_read(result: autoq.SearchResult, tmp_path: Path) -> None:
    """What a run has so far is in its directory; nothing is kept from an earlier look."""
    shutil.copytree(result.folder, tmp_path / "run")
    copy = autoq.SearchResult(tmp_path / "run")
    assert copy.trials.kl_nats.tolist() == result.trials.kl_nats.tolist()
    (tmp_path / "run" / "study.log").unlink()
    assert len(copy.trials) == 0
    assert "No trial has completed yet" in repr(copy)
