"""What the solvers of one operand share, computed once."""

from __future__ import annotations

import torch

from autoq.calibration import CalibrationSettings
from autoq.calibration.solvers._base import OperandData
from tests.calibration.samples import SHAPE, config, draw, operand, sample_of, weight_operand


def data_of(observer: str) -> OperandData:
    return OperandData(
        operand(SHAPE), sample_of(operand(SHAPE), draw("normal")), CalibrationSettings(observer=observer)
    )


def test_what_was_computed_under_a_key_is_kept() -> None:
    data, calls = data_of("mse"), []

    def compute() -> int:
        calls.append(1)
        return len(calls)

    assert [data.cached(("a",), compute), data.cached(("a",), compute), data.cached(("b",), compute)] == [1, 1, 2]


def test_rows_are_shared_by_options_of_one_granularity() -> None:
    data = data_of("mse")
    rows = data.rows(config("uniform", 4))
    assert data.rows(config("uniform", 8, symmetric=True)) is rows
    channels = data.rows(config("uniform", 4, granularity="channel"))
    assert (len(rows.values), len(channels.values)) == (1, SHAPE[-1])
    counts = [len(data.rows(config("uniform", 4, granularity="group", groups=n)).values) for n in (2, 3)]
    assert counts == [2, 3]
    for shared in (rows, channels):
        assert torch.equal(data.sorted_rows(shared).values, shared.values.sort(1).values)
        assert data.sorted_rows(shared) is data.sorted_rows(shared)
        assert data.linear_table(shared) is data.linear_table(shared)
    assert data.sorted_rows(rows) is not data.sorted_rows(channels)


def test_the_settings_choose_the_candidates() -> None:
    rows = data_of("omse").rows(config("uniform", 4))
    candidates = data_of("omse").candidates(rows)
    assert candidates is not None
    assert candidates[0].shape == (90, 1)
    torch.testing.assert_close(candidates[1][50], 0.5 * rows.upper)
    assert data_of("min_max").candidates(rows) is None


def test_a_weight_is_its_own_sample() -> None:
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = OperandData(weight_operand((5, 8)), weight, CalibrationSettings(observer="min_max"))
    assert data.sample.values.dtype == torch.float32
    rows = data.rows(config("uniform", 4, granularity="channel"))
    assert torch.equal(rows.values, weight.float())
    assert torch.equal(rows.lower, weight.float().amin(1))
    assert torch.equal(rows.upper, weight.float().amax(1))
