from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoq.report.plots import BLUE, SOFT, VERMILION
from autoq.report.proxy_plot import draw_proxy_check
from autoq.runs.proxy_check.ranks import CheckedRow, ProxyCheck, rank
from autoq.runs.proxy_check.recipes import ORIGINS
from autoq.tasks import CLASSIFICATION

IMAGES = 100
GREEN = "#009e73"


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoq.report.figures.DPI", 80)
    monkeypatch.setattr("autoq.sensitivity.rank_agreement._RESAMPLES", 40)
    monkeypatch.setattr("autoq.sensitivity.rank_agreement._REDRAWN", 4)


def make_rows(count: int = 24, origins: Sequence[str] = ORIGINS) -> list[CheckedRow]:
    rng = np.random.default_rng(0)
    order = rng.permutation(IMAGES)
    rows = []
    for number in range(count + 1):
        share = 0.95 if number == 0 else rng.uniform(0.2, 0.95)
        kl = 0.0 if number == 0 else math.exp(-8 * share + rng.normal())
        losses = {f"{proxy}_{images}": kl * rng.lognormal(0, 0.2) for proxy in ("kl", "mse") for images in (32, 128)}
        right = tuple(bool(each) for each in order < share * IMAGES)
        percent = {"top1_percent": 100 * sum(right) / len(right)}
        origin = "full" if number == 0 else origins[number % len(origins)]
        rows.append(
            CheckedRow(f"r-{number}", origin, str(number), 1000 + number, losses | {"fisher_128": kl}, percent, right)
        )
    return rows


def drawn(check: ProxyCheck, folder: Path, images: int = 128, title: str = "a check") -> np.ndarray:
    draw_proxy_check(check, folder / "check.png", title, images)
    assert [path.name for path in folder.iterdir()] == ["check.png"]
    with Image.open(folder / "check.png") as image:
        return np.asarray(image.convert("RGB"))


def coloured(image: np.ndarray, color: str) -> int:
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(image.astype(int) - wanted).max(axis=2) <= 2).sum())


def left(image: np.ndarray) -> np.ndarray:
    return image[:, : int(0.44 * image.shape[1])]


def test_each_has_its_colour(tmp_path: Path) -> None:
    colors = {"uniform": VERMILION, "allocated": BLUE, "disturbed": GREEN, "mutated": SOFT}
    assert colors.keys() == set(ORIGINS)
    everything = left(drawn(rank(make_rows(), IMAGES, 0, CLASSIFICATION.main_metric), tmp_path))
    for origin, color in colors.items():
        assert coloured(everything, color) > 60
        alone = left(drawn(rank(make_rows(8, (origin,)), IMAGES, 0, CLASSIFICATION.main_metric), tmp_path))
        for other in {VERMILION, BLUE, GREEN} - {color}:
            assert coloured(alone, other) < 10
        assert coloured(alone, color) > 80


def test_the_number_of_images_asked_for(tmp_path: Path) -> None:
    check = rank(make_rows(), IMAGES, 0, CLASSIFICATION.main_metric)
    at_32, at_128, nearest = (left(drawn(check, tmp_path, images)) for images in (32, 128, 200))
    assert not np.array_equal(at_32, at_128)
    assert np.array_equal(nearest, at_128)


def test_taus_are_drawn(tmp_path: Path) -> None:
    check = rank(make_rows(), IMAGES, 0, CLASSIFICATION.main_metric)
    shifted = replace(
        check,
        ranks=tuple(
            replace(each, agreement=replace(each.agreement, tau=0.6)) if each.subset == "all" else each
            for each in check.ranks
        ),
    )
    one, other = drawn(check, tmp_path), drawn(shifted, tmp_path)
    assert np.array_equal(left(one), left(other))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("loss", [0.0, math.inf])
def test_losses_without_a_place_on_the_axis(tmp_path: Path, loss: float) -> None:
    rows = make_rows(6, ("allocated",))
    plain = left(drawn(rank(rows, IMAGES, 0, CLASSIFICATION.main_metric), tmp_path))
    rows[1] = replace(rows[1], losses=dict.fromkeys(rows[1].losses, loss))
    image = left(drawn(rank(rows, IMAGES, 0, CLASSIFICATION.main_metric), tmp_path))
    assert coloured(image, BLUE) == pytest.approx(coloured(plain, BLUE), rel=0.25), "drawn at its end"
    everywhere = [replace(row, losses=dict.fromkeys(row.losses, loss)) for row in rows]
    assert coloured(left(drawn(rank(everywhere, IMAGES, 0, CLASSIFICATION.main_metric), tmp_path)), BLUE) > 30


def test_nothing_to_order(tmp_path: Path) -> None:
    """Recipes that are all alike have no tau; names with formulas in them are text."""
    rows = [replace(row, right=(True,) * IMAGES) for row in make_rows(3)]
    assert drawn(rank(rows, IMAGES, 0, CLASSIFICATION.main_metric), tmp_path, title="$\\also{not").std() > 3
