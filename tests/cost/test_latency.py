"""Latency tables: which row a site takes, what adds up, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoq.cost import CostModel, LatencyTable
from autoq.cost.kinds import LATENCY
from autoq.errors import BudgetError
from autoq.recipe import OperandConfig, SiteConfig
from tests.optimization.synthetic_sites import linear, norm, product

SITES = (norm("norm", 4, 6), linear("blocks.0.fc", 4, 6, 6), product("blocks.0.qk", (1, 1, 4, 6), (1, 1, 6, 4)))
ROWS: list[dict[str, Any]] = [
    {"site": "*.fc", "input": 8, "weight": 8, "milliseconds": 0.4},
    {"site": "*.fc", "input": 8, "weight": 4, "milliseconds": 0.3},
    {"site": "blocks.0.fc", "milliseconds": 1.0},
    {"site": "*.qk", "lhs": 8, "rhs": 8, "scheme": "uniform", "milliseconds": 0.2},
    {"site": "*.qk", "milliseconds": 0.5},
]


def table(rows: list[dict[str, Any]] = ROWS, **fields: Any) -> LatencyTable:
    return LatencyTable.model_validate({"schema_version": 1, "rows": rows, **fields})


def config(bits: int, scheme: str = "uniform") -> OperandConfig:
    return OperandConfig(scheme=scheme, bits=bits)


@pytest.mark.parametrize(
    ("site", "option", "microseconds"),
    [
        ("blocks.0.fc", {"input": config(8), "weight": config(8)}, 400),
        ("blocks.0.fc", {"input": config(6), "weight": config(5)}, 400),
        ("blocks.0.fc", {"input": config(3), "weight": config(4)}, 300),
        ("blocks.0.fc", {"input": None, "weight": config(4)}, 1000),
        ("blocks.0.fc", {"input": config(12), "weight": config(4)}, 1000),
        ("blocks.0.qk", {"lhs": config(8), "rhs": config(8)}, 200),
        ("blocks.0.qk", {"lhs": config(8, "adalog"), "rhs": config(8)}, 500),
    ],
)
def test_an_option_takes_the_fastest_row_that_serves_it(
    site: str, option: dict[str, OperandConfig | None], microseconds: int
) -> None:
    assert table().site_nanoseconds(site, option) == microseconds * 1000


def test_times_add_up() -> None:
    recipe: dict[str, SiteConfig] = {
        "blocks.0.fc": {"input": config(4), "weight": config(4)},
        "norm": {"input": config(8)},
    }
    costs = CostModel(SITES, latency=table(rest_milliseconds=0.05))
    assert costs.cost(recipe).latency_ns == 50_000 + 300_000 + 500_000
    assert costs.uniform(LATENCY, 8, 8) == 50_000 + 400_000 + 200_000
    assert (
        costs.rest_cost(LATENCY) + sum(costs.site_cost(LATENCY, site, recipe.get(site.name, {})) for site in SITES)
        == costs.cost(recipe).latency_ns
    )


@pytest.mark.parametrize(("glob", "microseconds"), [("*", 0), ("nor*", 0), ("nor?", 100), ("norm", 100)])
def test_a_star_stands_for_what_multiplies(glob: str, microseconds: int) -> None:
    rows = [{"site": glob, "milliseconds": 0.1}, {"site": "blocks.*", "milliseconds": 0.2}]
    found = LatencyTable.model_validate({"schema_version": 1, "rows": rows})
    assert found.site_time(SITES[0], {}) == microseconds * 1000
    assert found.site_time(SITES[1], {}) == (100 if glob == "*" else 200) * 1000


def test_json_and_csv_say_the_same(tmp_path: Path) -> None:
    as_json, as_csv = tmp_path / "table.json", tmp_path / "table.csv"
    as_json.write_text(json.dumps({"$schema": "x", "schema_version": 1, "rows": ROWS}))
    columns = ("site", "input", "weight", "lhs", "rhs", "scheme", "milliseconds")
    lines = [",".join(str(row.get(column, "")) for column in columns) for row in ROWS]
    as_csv.write_text("\n".join([",".join(columns), *lines]) + "\n")
    assert LatencyTable.load(as_csv) == LatencyTable.load(as_json) == table()
    assert LatencyTable.load(as_csv).sha256 == table(description="elsewhere").sha256 != table(ROWS[:-1]).sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"schema_version": 1, "rows": []}', "rows"),
        ('{"schema_version": 1, "rows": [{"site": "a", "wieght": 8, "milliseconds": 1}]}', "Did you mean 'weight'?"),
        ('{"schema_version": 1, "rows": [{"site": "a", "milliseconds": -1}]}', "give 0.0 or more"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(BudgetError, match="latency table") as caught:
        LatencyTable.load(path)
    assert message in str(caught.value)


def test_options_without_a_row_are_refused_by_name() -> None:
    with pytest.raises(BudgetError, match=r"no time for blocks.0.fc \(input float, weight 4 bits, uniform\)"):
        table(ROWS[:2]).site_nanoseconds("blocks.0.fc", {"input": None, "weight": config(4)})
    with pytest.raises(BudgetError, match=r"Did you mean 'blocks.0.fc'\?"):
        table(ROWS[2:3]).site_nanoseconds("blocks.0.fd", {})
    with pytest.raises(BudgetError, match="--latency-table"):
        CostModel(SITES).uniform(LATENCY, 8, 8)
