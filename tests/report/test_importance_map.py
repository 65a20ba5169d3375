from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from autoq.report.importance_map import draw_importance
from autoq.sensitivity.block_importance import OutputImportance
from autoq.sensitivity.importance_files import Importance
from autoq.sensitivity.perturbation_hessian import PerturbationSettings

DPI = 80
GREY, DARKEST, PALEST = "#eceef0", "#440154", "#fde725"


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoq.report.figures.DPI", DPI)


def uneven(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).exp() / 100


def block(number: int, hessian: Tensor | None = None) -> OutputImportance:
    """Of a transformer: a class token and 4×4 others, eight channels."""
    name = f"blocks.{number}"
    return OutputImportance(name, name, 1, uneven(1, 17, 8) if hessian is None else hessian, 2, (4, 4))


def head(classes: int = 3) -> OutputImportance:
    return OutputImportance("head", "head", 0, uneven(1, classes), 1, None, is_logits=True)


def importance_of(*outputs: OutputImportance, images: int = 4) -> Importance:
    return Importance("model", "ab", images, "cd", PerturbationSettings(), outputs)


def drawn(importance: Importance, folder: Path, label_names: Sequence[str] | None = None) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    draw_importance(importance, folder / "map.png", label_names=label_names)
    assert [path.name for path in folder.iterdir()] == ["map.png"]
    with Image.open(folder / "map.png") as image:
        return np.asarray(image.convert("RGB"))


def count(image: np.ndarray, color: str) -> int:
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(image.astype(int) - wanted).max(axis=2) <= 2).sum())


def test_the_height_follows_the_blocks(tmp_path: Path) -> None:
    heights = [
        drawn(importance_of(*map(block, range(number)), head()), tmp_path / str(number)).shape[0] / DPI
        for number in (1, 3, 8)
    ]
    assert heights[1] - heights[0] == pytest.approx(2 * 0.86, abs=2 / DPI)
    assert heights[2] - heights[1] == pytest.approx(5 * 0.86, abs=2 / DPI)


def test_tokens_without_influence_are_grey(tmp_path: Path) -> None:
    panel = (0.66 * DPI) ** 2
    assert count(drawn(importance_of(block(0), block(1)), tmp_path / "a"), GREY) < 0.2 * panel, "of lines"
    only_class = torch.zeros(1, 17, 8)
    only_class[:, 0] = 1
    image = drawn(importance_of(block(0), block(1, only_class)), tmp_path / "b")
    assert count(image, GREY) > 0.8 * panel, "all 4×4 of one block"
    assert count(image, DARKEST) > 0.8 * (0.15 * DPI) ** 2, "its class token"


def test_where_it_lies_on_the_map(tmp_path: Path) -> None:
    found = []
    for token in (1, 4, 13):  # upper left, upper right, lower left of the grid
        hessian = torch.full((1, 17, 8), 0.01)
        hessian[:, token] = 1
        image = drawn(importance_of(block(0, hessian)), tmp_path / str(token))
        map_alone = image[:, : round(0.75 * image.shape[1])]  # without the colour bar
        wanted = [int(DARKEST[start : start + 2], 16) for start in (1, 3, 5)]
        rows, columns = np.nonzero(np.abs(map_alone.astype(int) - wanted).max(axis=2) <= 2)
        found.append((np.median(rows) / DPI, np.median(columns) / DPI))
    (row, column), right, down = found
    cell = 0.66 / 4
    assert (right[0] - row, right[1] - column) == pytest.approx((0, 3 * cell), abs=0.03)
    assert (down[0] - row, down[1] - column) == pytest.approx((3 * cell, 0), abs=0.03)


def test_channels_first_and_last_are_drawn_alike(tmp_path: Path) -> None:
    hessian = uneven(1, 6, 4, 5)
    first = OutputImportance("conv", "conv", 0, hessian, 1, (4, 5))
    last = replace(first, hessian=hessian.movedim(1, 3), channel_axis=3)
    tokens = replace(first, hessian=hessian.movedim(1, 3).flatten(1, 2), channel_axis=2)
    pictures = [drawn(importance_of(each), tmp_path / str(index)) for index, each in enumerate((first, last, tokens))]
    assert np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[0], pictures[2])
    other = replace(first, hessian=hessian.flip(2))
    assert not np.array_equal(pictures[0], drawn(importance_of(other), tmp_path / "other"))


def test_the_order_of_channels_does_not_matter(tmp_path: Path) -> None:
    hessian = uneven(1, 17, 8)
    pictures = [
        drawn(importance_of(block(0, each)), tmp_path / str(index))
        for index, each in enumerate((hessian, hessian.flip(2)))
    ]
    assert np.array_equal(*pictures)
    even = hessian.mean(2, keepdim=True).expand(1, 17, 8)
    assert not np.array_equal(pictures[0], drawn(importance_of(block(0, even)), tmp_path / "even"))


def test_an_even_spread_looks_even(tmp_path: Path) -> None:
    """Differences of a percent are not stretched over all colours."""
    hessian = 1 + uneven(1, 17, 8) / 3
    image = drawn(importance_of(block(0, hessian)), tmp_path)
    map_alone = image[:, : round(0.7 * image.shape[1])]
    assert count(map_alone, DARKEST) + count(map_alone, PALEST) == 0


def test_classes_are_named(tmp_path: Path) -> None:
    plain = drawn(importance_of(block(0), head()), tmp_path / "a")
    named = drawn(importance_of(block(0), head()), tmp_path / "b", ["cat", "dog", "frog"])
    assert named.shape[0] > plain.shape[0]
    misfit = drawn(importance_of(block(0), head()), tmp_path / "c", ["cat", "dog"])
    assert count(misfit, "#222222") == pytest.approx(count(plain, "#222222"), rel=0.05)


def with_zeros(output: OutputImportance) -> OutputImportance:
    return replace(output, hessian=torch.zeros_like(output.hessian))


@pytest.mark.parametrize(
    "make",
    [
        lambda: (),
        lambda: (head(),),
        lambda: (block(0), head(1000)),
        lambda: (with_zeros(block(0)), with_zeros(head())),
        lambda: (block(0, torch.full((1, 17, 8), 0.25)),),
        lambda: (block(0, torch.tensor([1e-30, 1e30]).repeat(1, 17, 4)),),
        lambda: (OutputImportance("windows", "windows", 0, uneven(4, 9, 6), 2),),
        lambda: (OutputImportance("pooled", "pooled", 0, uneven(1, 6), 1),),
        lambda: (OutputImportance("wide", "wide", 0, uneven(1, 6, 2, 30), 1, (2, 30)),),
        lambda: (OutputImportance("registers", "registers", 0, uneven(1, 21, 6), 2, (4, 4)),),
        lambda: (OutputImportance("queries", "queries", 0, uneven(1, 30, 6), 2, is_logits=True),),
    ],
    ids=["none", "head", "many-classes", "zeros", "even", "huge", "windows", "pooled", "wide", "registers", "queries"],
)
def test_degenerate_ones_can_be_drawn(tmp_path: Path, make: Callable[[], tuple[OutputImportance, ...]]) -> None:
    assert drawn(importance_of(*make(), images=1), tmp_path).std() > 3


def test_names_are_no_formulas(tmp_path: Path) -> None:
    name = "$\\nosuch{$" * 9
    output = replace(block(0), name=name)
    draw_importance(
        importance_of(output, head(2)), tmp_path / "map.png", title="$\\also{not", label_names=["$a{$", "b$"]
    )
    assert (tmp_path / "map.png").stat().st_size > 1000
