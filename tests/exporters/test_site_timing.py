"""Latency tables that are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import autoq
from autoq.api import timing
from autoq.cost.latency import LatencyTable
from autoq.events import PhaseAdvanced, PhaseStarted
from autoq.exporters import site_timing
from autoq.exporters.timing import Timing
from autoq.recipe import OperandConfig

pytest.importorskip("onnxruntime")
SECONDS = {"whole model": 0.010, "float": 0.002, "7": 0.0005, "8": 0.001}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> LatencyTable:
    """Of two linear layers of one shape and one of another; times are not of this machine."""
    opened: list[tuple[str, int, tuple[int, ...]]] = []

    def open_file(path: Path, inputs: Sequence[Tensor], threads: int) -> Callable[[], None]:
        assert path.exists()
        opened.append((path.stem, threads, tuple(inputs[0].shape)))
        return lambda: None

    def timed(models: dict[str, object], rounds: int) -> dict[str, Timing]:
        assert rounds == 5
        first = SECONDS[next(iter(models))]
        return {name: Timing(1000 * SECONDS[name], first / SECONDS[name], 1, 1, rounds) for name in models}

    monkeypatch.setattr(timing, "open_in", lambda _: open_file)
    monkeypatch.setattr(site_timing, "time_in_pairs", timed)
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    events: list[object] = []
    made = autoq.latency_table(module, batch=2, threads=3, rounds=5, images=torch.randn(4, 6), progress=events.append)
    assert events == [PhaseStarted("timing", 2), PhaseAdvanced("timing", 1), PhaseAdvanced("timing", 2)]
    assert opened == [("whole", 3, (2, 6))] + [(kind, 3, (2, 6)) for _ in range(2) for kind in ("float", "7", "8")]
    return made


def test_times_are_per_image_and_the_rest_is_what_sites_do_not_take(table: LatencyTable) -> None:
    assert [row.site for row in table.rows] == [name for name in ("0", "2", "4") for _ in range(3)]
    assert [row.milliseconds for row in table.rows[:3]] == [1.0, 0.25, 0.5]
    assert table.rest_milliseconds == pytest.approx(5 - 3)
    assert table.add_up(quantized=False) == pytest.approx(5)
    assert table.add_up(quantized=True) == pytest.approx(2 + 3 * 0.25)


def test_options_run_as_exports_do(table: LatencyTable) -> None:
    def nanoseconds(weight: OperandConfig | None, given: OperandConfig | None) -> int:
        return table.site_nanoseconds("0", {"input": given, "weight": weight})

    eight, four = (OperandConfig(scheme="uniform", bits=bits) for bits in (8, 4))
    assert nanoseconds(None, None) == nanoseconds(eight, None) == nanoseconds(None, four) == 1_000_000
    assert nanoseconds(eight, eight) == nanoseconds(eight, four) == 500_000
    assert nanoseconds(four, eight) == nanoseconds(four, four) == 250_000
    assert nanoseconds(four, OperandConfig(scheme="log2", bits=4)) == 1_000_000


def test_a_table_is_what_was_saved(table: LatencyTable, tmp_path: Path) -> None:
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == table
    assert "batch 2" in table.description
