from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoq.recipe import OperandConfig
from autoq.report.sensitivity_map import Cell, best_cells, draw_sensitivity
from autoq.sensitivity.measure import Sensitivity, SensitivityTable
from autoq.sensitivity.proxies import LOSS_NAMES, PROXIES

DPI = 80
Operands = list[tuple[str, str]]


@pytest.fixture(autouse=True)
def _coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoq.report.figures.DPI", DPI)


def make_table(
    sites: int = 4, proxy: str = "kl", widths: Sequence[int] = range(2, 9)
) -> tuple[SensitivityTable, Operands]:
    rows: list[Sensitivity] = []
    for site in range(sites):
        for operand, families in (("input", (1, 8)), ("weight", (1,))):
            for groups in families:
                for bits in widths:
                    scheme = "uniform" if groups == 1 else "instance_groups"
                    config = OperandConfig(scheme=scheme, bits=bits, groups=groups)
                    loss = (1 + site) * 4.0**-bits * (0.5 if groups > 1 and bits < 5 else 1)
                    rows.append(Sensitivity(f"blocks.{site}.mlp.fc1", operand, config, loss))
    return SensitivityTable(proxy, 16, tuple(rows)), list(dict.fromkeys((row.site, row.operand) for row in rows))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def drawn(table: SensitivityTable, operands: Operands, folder: Path) -> np.ndarray:
    draw_sensitivity(table, operands, folder / "map.png")
    assert [path.name for path in folder.iterdir()] == ["map.png"]
    return pixels(folder / "map.png")


def has_color(image: np.ndarray, color: str) -> bool:
    """Whether a cell or more has it; a few pixels of any colour lie between two others."""
    wanted = [int(color[start : start + 2], 16) for start in (1, 3, 5)]
    return int((np.abs(image.astype(int) - wanted).max(axis=2) <= 1).sum()) > 150


def test_the_best_of_each_width() -> None:
    table, _ = make_table(2)
    cells = best_cells(table)
    assert [cells["blocks.0.mlp.fc1", "input"][bits].config.groups for bits in range(2, 9)] == [8, 8, 8, 1, 1, 1, 1]
    assert cells["blocks.1.mlp.fc1", "input"][2].loss == 2 * 4.0**-2 * 0.5
    reversed_ = best_cells(replace(table, rows=table.rows[::-1]))
    assert reversed_ == cells, "of equals the one with fewer groups, whatever the order"


def test_of_equal_losses_the_plain_one() -> None:
    fit, plain = OperandConfig(scheme="adalog", bits=4), OperandConfig(scheme="uniform", bits=4)
    for configs in ((fit, plain), (plain, fit)):
        rows = tuple(Sensitivity("s", "input", config, 0.5) for config in configs)
        assert best_cells(SensitivityTable("kl", 1, rows))["s", "input"][4].config == plain


def test_of_equal_losses_the_one_with_fewer_groups() -> None:
    configs = [OperandConfig(scheme="instance_groups", bits=4, groups=groups) for groups in (8, 2, 4)]
    rows = tuple(Sensitivity("s", "input", config, 0.5) for config in configs)
    assert best_cells(SensitivityTable("kl", 1, rows))["s", "input"][4].config.groups == 2


@pytest.mark.parametrize(
    ("config", "mark"),
    [
        (OperandConfig(scheme="uniform", bits=4, granularity="channel"), ""),
        (OperandConfig(scheme="uniform", bits=4, granularity="group", groups=16), "g16"),
        (OperandConfig(scheme="instance_groups", bits=4, groups=8), "g8"),
        (OperandConfig(scheme="adalog", bits=4), "fit"),
        (OperandConfig(scheme="adalog", bits=4, log_base_numerator=37), "q37"),
        (OperandConfig(scheme="log_sqrt2", bits=4), "log sqrt2"),
    ],
)
def test_marks(config: OperandConfig, mark: str) -> None:
    assert Cell(0.1, config, measured=True).label.mark == mark


def test_every_proxy_has_a_unit() -> None:
    assert LOSS_NAMES.keys() == set(PROXIES)


def test_the_height_follows_the_operands(tmp_path: Path) -> None:
    heights = []
    for sites in (10, 26, 75):
        (tmp_path / str(sites)).mkdir()
        heights.append(drawn(*make_table(sites, widths=[4]), tmp_path / str(sites)).shape[0] / DPI)
    assert heights[1] - heights[0] == pytest.approx(2 * 16 * 0.175, abs=2 / DPI)
    assert heights[2] - heights[1] == pytest.approx(2 * 49 * 0.175, abs=2 / DPI)


def test_rows_come_in_the_order_given(tmp_path: Path) -> None:
    table, operands = make_table()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    upright = drawn(table, operands, tmp_path / "a")
    assert not np.array_equal(upright, drawn(table, operands[::-1], tmp_path / "b"))


def changed(table: SensitivityTable, change: Callable[[Sensitivity], Sensitivity]) -> SensitivityTable:
    return replace(table, rows=tuple(change(row) for row in table.rows))


def test_interpolated_cells_look_different(tmp_path: Path) -> None:
    table, operands = make_table()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = drawn(table, operands, tmp_path / "a")
    other = drawn(changed(table, lambda row: replace(row, measured=row.config.bits != 7)), operands, tmp_path / "b")
    cells = slice(None, round((0.95 + 8 * 0.175) * DPI))  # the note about them aside
    assert 1e-3 < (one[cells] != other[cells]).any(axis=2).mean() < 0.2


def test_infinite_losses_stand_out(tmp_path: Path) -> None:
    table, operands = make_table()
    assert not has_color(drawn(table, operands, tmp_path), "#d55e00")
    infinite = changed(table, lambda row: replace(row, loss=math.inf if row.config.bits == 2 else row.loss))
    assert has_color(drawn(infinite, operands, tmp_path), "#d55e00")


def test_no_loss_is_no_small_loss(tmp_path: Path) -> None:
    table, operands = make_table(proxy="agreement")
    assert not has_color(drawn(table, operands, tmp_path), "#fff9d6")
    none = changed(table, lambda row: replace(row, loss=0.0 if row.config.bits > 4 else row.loss))
    assert has_color(drawn(none, operands, tmp_path), "#fff9d6")


def test_the_colours_span_the_losses(tmp_path: Path) -> None:
    image = drawn(*make_table(), tmp_path)
    assert has_color(image, "#440154"), "viridis, dark for the largest loss"
    assert has_color(image, "#fde725")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table: replace(table, rows=()),
        lambda table: replace(table, rows=table.rows[:1]),
        lambda table: changed(table, lambda row: replace(row, loss=0.0)),
        lambda table: changed(table, lambda row: replace(row, loss=math.inf)),
        lambda table: changed(table, lambda row: replace(row, loss=0.25)),
        lambda table: replace(table, proxy="another"),
        lambda table: replace(table, rows=tuple(row for row in table.rows if row.config.bits != len(row.operand))),
    ],
    ids=["none", "one", "all-zero", "all-infinite", "all-equal", "unknown-proxy", "missing-widths"],
)
def test_degenerate_tables_can_be_drawn(tmp_path: Path, spoil: Callable[[SensitivityTable], SensitivityTable]) -> None:
    table, operands = make_table()
    assert drawn(spoil(table), operands, tmp_path).std() > 3


def test_names_are_no_formulas(tmp_path: Path) -> None:
    config = OperandConfig(scheme="uniform", bits=4)
    table = SensitivityTable("kl", 1, (Sensitivity("$\\nosuch{$" * 9, "input", config, 0.1),))
    draw_sensitivity(table, [("$\\nosuch{$" * 9, "input")], tmp_path / "map.png", title="$\\also{not")
    assert pixels(tmp_path / "map.png").std() > 3
