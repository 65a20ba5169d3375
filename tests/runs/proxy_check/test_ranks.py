from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoq.errors import RunDirectoryError
from autoq.runs.proxy_check.ranks import (
    BOPS,
    SUBSETS,
    CheckedRow,
    ProxyCheck,
    column,
    load_rows,
    rank,
    save_csv,
    save_rows,
)
from autoq.sensitivity.rank_agreement import Ceiling, agreement, kendall_tau
from autoq.tasks import CLASSIFICATION, DetectionTask

TOP1 = CLASSIFICATION.main_metric
IMAGES = 50
FULL = 90


def make_row(number: int, origin: str, right: list[bool], bops: int, kl: float) -> CheckedRow:
    losses, metrics = {"kl_4": kl, "fisher_8": -kl}, {"top1_percent": 100 * sum(right) / len(right)}
    return CheckedRow(f"{origin}-{number}", origin, f"hash-{number}", bops, losses, metrics, tuple(right))


def make_rows() -> list[CheckedRow]:
    """Full precision, and 20 recipes: with every recipe another image is wrong."""
    rows = [make_row(0, "full", [image >= IMAGES - FULL * IMAGES // 100 for image in range(IMAGES)], 0, 0.0)]
    for number in range(20):
        wrong = 5 + number // 2
        right = [image >= wrong for image in range(IMAGES)]
        origin = ("uniform", "allocated", "disturbed", "mutated")[number % 4]
        rows.append(make_row(number, origin, right, 1000 - 30 * number, 0.01 * number))
    return rows


def make_check() -> ProxyCheck:
    return rank(
        [replace(row, losses={"kl_4": 0.0, "fisher_8": 0.0} | dict(row.losses)) for row in make_rows()], IMAGES, 0, TOP1
    )


def test_less_loss_is_more_accurate() -> None:
    check = make_check()
    top1 = [row.percent for row in check.rows]
    assert top1[:4] == [90, 90, 88, 88]
    assert check.full_precision_percent == 90
    expected = kendall_tau([-row.losses["kl_4"] for row in check.rows], top1)
    assert check.rank_of("kl", 4).tau == expected > 0.9
    assert check.rank_of("fisher", 8).tau == pytest.approx(-expected)
    assert check.rank_of(BOPS, None).tau == pytest.approx(expected)
    assert check.rank_of("kl", 4) == agreement(
        [-row.losses["kl_4"] for row in check.rows], top1, ~np.eye(20, dtype=bool)
    )
    with pytest.raises(KeyError):
        check.rank_of("kl", 5)


def test_subsets() -> None:
    check = make_check()
    subsets = {subset.name: subset for subset in check.subsets}
    assert tuple(subsets) == SUBSETS
    assert [subsets["all"].recipes, subsets["all"].pairs, subsets["all"].tied] == [20, 190, 10]
    # From 90 % down to 80 %: two each at 90, 88, 86, 84, 82, 80.
    assert [subsets["near"].recipes, subsets["near"].pairs, subsets["near"].tied] == [12, 66, 6]
    front = [number for number in range(20) if number % 4 < 2]
    assert [subsets["front"].recipes, subsets["front"].pairs] == [len(front), 45]
    assert [subsets["off"].recipes, subsets["off"].pairs] == [20 - len(front), 45]
    costs = [row.bops for row in check.rows]
    alike = [(i, j) for i in range(20) for j in range(i) if max(costs[i], costs[j]) < 1.1 * min(costs[i], costs[j])]
    assert subsets["alike"].pairs == len(alike) > 0
    # Images that only the better one has right are all that differ: k of them are √k standard errors.
    clear = [(i, j) for i in range(20) for j in range(i) if i // 2 - j // 2 > 4]
    assert subsets["clear"].pairs == len(clear)
    assert subsets["clear"].tied == 0
    assert check.rank_of("kl", 4, "clear").tau == pytest.approx(1)


def test_models_that_collapse() -> None:
    rows = [
        replace(row, losses={"kl_4": math.inf if number > 15 else row.losses["kl_4"]})
        for number, row in enumerate(make_rows())
    ]
    check = rank(rows, IMAGES, 0, TOP1)
    tau = check.rank_of("kl", 4).tau
    assert tau is not None
    assert tau > 0.9
    assert json.loads(json.dumps(check.to_json(), allow_nan=False))["recipes"] == 20


def test_json() -> None:
    document = make_check().to_json()
    assert document["origins"] == {"uniform": 5, "allocated": 5, "disturbed": 5, "mutated": 5}
    assert document["top1_percent_quartiles"][0] == 72
    assert document["top1_percent_quartiles"][-1] == 90
    assert document["labelled_images"] == IMAGES
    assert len(document["taus"]) == 3 * len(SUBSETS)
    assert document["taus"][0].keys() == {"proxy", "images", "subset", "tau", "low", "high"}
    assert document["subsets"][0].keys() == {"name", "recipes", "pairs", "tied", "ceiling"}


def test_rows_are_kept(tmp_path: Path) -> None:
    rows = make_rows()
    rows[3] = replace(rows[3], losses={"kl_4": math.inf, "fisher_8": 1 / 3})
    save_rows(rows, tmp_path / "rows")
    assert load_rows(tmp_path / "rows") == rows
    assert load_rows(tmp_path / "absent") == []
    for damaged in ("{", "[]", '{"id": "a"}', json.dumps({"losses": {}, "right": "01", "strange": 1}), '"a"'):
        (tmp_path / "rows").write_text(damaged)
        with pytest.raises(RunDirectoryError, match=r"rows' is damaged; delete it"):
            load_rows(tmp_path / "rows")
    with pytest.raises(RunDirectoryError, match="cannot read"):
        load_rows(tmp_path)


def test_table(tmp_path: Path) -> None:
    rows = make_rows()[1:]
    save_csv(rows, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["id", "origin", "bops", "kl_4", "fisher_8", "top1_percent"]
    assert [float(row["kl_4"]) for row in found] == [row.losses["kl_4"] for row in rows]
    assert [float(row["top1_percent"]) for row in found] == [row.percent for row in rows]
    assert column("kl", 4) == "kl_4"


def test_a_metric_of_all_images_at_once_has_neither_ceiling_nor_clear_pairs() -> None:
    metric = DetectionTask().main_metric
    rows = [
        replace(
            row,
            right=(),
            metrics={"box_ap_percent": row.percent, "mask_ap_percent": 0.0},
            losses={"kl_4": row.losses["kl_4"]},
        )
        for row in make_rows()
    ]
    check = rank(rows, IMAGES, 0, metric)
    subsets = {subset.name: subset for subset in check.subsets}
    assert (subsets["clear"].pairs, subsets["all"].pairs, subsets["near"].pairs) == (0, 190, 66)
    assert subsets["all"].ceiling == Ceiling(None, None)
    assert check.rank_of("kl", 4).tau == make_check().rank_of("kl", 4).tau
    assert check.rank_of("kl", 4, "clear").tau is None
    assert json.loads(json.dumps(check.to_json(), allow_nan=False))["full_precision_box_ap_percent"] == 90
