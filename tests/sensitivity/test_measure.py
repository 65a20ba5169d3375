"""Measuring options one at a time: which are measured, what the others get, and that nothing is measured twice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoq.errors import NonFiniteError, RunDirectoryError
from autoq.recipe import OperandConfig, SiteConfig
from autoq.scoring.discrepancy import Score
from autoq.sensitivity.measure import Option, SensitivityTable, measure_sensitivities

WIDTHS = range(2, 9)
PLAIN = OperandConfig(scheme="uniform", bits=1)
FOUR = OperandConfig(scheme="instance_groups", groups=4, bits=1)
EIGHT = OperandConfig(scheme="instance_groups", groups=8, bits=1)
FIT = OperandConfig(scheme="adalog", bits=1)
Losses = Mapping[Option, float]


def at(family: OperandConfig, bits: int) -> OperandConfig:
    return family.model_copy(update={"bits": bits})


def family(config: OperandConfig, loss: Callable[[int], float], operand: str = "input") -> dict[Option, float]:
    """The options of a family at all widths."""
    return {("fc", operand, at(config, bits)): loss(bits) for bits in WIDTHS}


@dataclass
class Model:
    """Loses what it is told to, and remembers what was asked."""

    losses: Losses
    asked: list[Option] = field(default_factory=list)
    stop_after: int = 10**9

    def evaluate(self, sites: Mapping[str, SiteConfig]) -> Score:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        ((site, operands),) = sites.items()
        ((operand, config),) = operands.items()
        self.asked.append((site, operand, config))
        loss = self.losses[self.asked[-1]]
        if loss == -math.inf:
            raise NonFiniteError("NaN arises first at site 'fc'", "fc")
        return Score(loss, 0.0, 0.0, 7.0, 16)

    def table(self, **options: object) -> SensitivityTable:
        return measure_sensitivities(
            self.evaluate,
            lambda score: score.kl_nats,
            list(self.losses),
            "kl",
            16,
            **options,  # type: ignore[arg-type]
        )

    def widths(self, config: OperandConfig) -> list[int]:
        """At which bits a family was measured, in that order."""
        return [option[2].bits for option in self.asked if at(option[2], 1) == config]


def test_one_row_an_option_in_the_order_given() -> None:
    model = Model(family(PLAIN, lambda b: 4.0**-b) | family(PLAIN, lambda b: 3.0**-b, "weight"))
    table = model.table()
    assert [row.option for row in table.rows] == list(model.losses)
    assert (table.proxy, table.images) == ("kl", 16)
    operands = [operand for _, operand, _ in model.asked]
    assert operands == sorted(operands), "one operand after another"
    assert all(row.loss == model.losses[row.option] for row in table.rows)
    assert all(row.measured for row in table.rows)
    assert model.widths(PLAIN)[:4] == [2, 3, 4, 8]


def test_a_family_that_is_no_better_and_no_cheaper_is_only_sampled() -> None:
    model = Model(
        family(PLAIN, lambda b: 4.0**-b) | family(FOUR, lambda b: 4.0**-b) | family(FIT, lambda b: 2 * 4.0**-b)
    )
    table = model.table()
    assert sorted(model.widths(PLAIN)) == list(WIDTHS)
    assert model.widths(FOUR) == model.widths(FIT) == [2, 3, 4, 8]
    for row in table.rows:
        assert row.measured == (row.config.bits in (2, 3, 4, 8) or row.config.scheme == "uniform")
        assert row.loss == pytest.approx(model.losses[row.option], rel=1e-12), "losses that fall evenly are exact"


def test_more_groups_survive_only_where_they_lose_less() -> None:
    model = Model(
        family(PLAIN, lambda b: 4.0**-b)
        | family(FOUR, lambda b: 4.0**-b * (0.5 if b == 8 else 2))
        | family(EIGHT, lambda b: 4.0**-b * (0.5 if b == 8 else 3))
    )
    model.table()
    assert sorted(model.widths(FOUR)) == list(WIDTHS), "better at 8 bits"
    assert model.widths(EIGHT) == [2, 3, 4, 8], "not better than four groups"


def test_fewer_groups_survive_whatever_more_would_save() -> None:
    model = Model(family(EIGHT, lambda b: 4.0**-b) | family(PLAIN, lambda b: 9 * 4.0**-b))
    model.table()
    assert sorted(model.widths(PLAIN)) == sorted(model.widths(EIGHT)) == list(WIDTHS)


def test_of_equal_families_the_first_survives() -> None:
    model = Model(family(FIT, lambda b: 4.0**-b) | family(PLAIN, lambda b: 4.0**-b))
    model.table()
    assert sorted(model.widths(FIT)) == list(WIDTHS)
    assert model.widths(PLAIN) == [2, 3, 4, 8]


def test_nothing_is_measured_between_equal_losses() -> None:
    model = Model(family(FIT, lambda b: 4.0**-b if b < 4 else 0.01 / (1 + b / 100)))
    table = model.table()
    assert sorted(model.widths(FIT)) == [2, 3, 4, 8]
    assert all(row.loss == pytest.approx(model.losses[row.option], rel=0.01) for row in table.rows)
    assert [row.config.bits for row in table.rows if not row.measured] == [5, 6, 7]


def test_exhaustive() -> None:
    model = Model(family(PLAIN, lambda _: 0.5) | family(EIGHT, lambda _: 1.0))
    table = model.table(exhaustive=True)
    assert sorted(model.asked, key=str) == sorted(model.losses, key=str)
    assert all(row.measured for row in table.rows)


def test_families_with_other_widths_are_not_compared_where_they_cannot_be() -> None:
    losses = family(PLAIN, lambda b: 4.0**-b) | {("fc", "input", at(FIT, 3)): 1.0, ("fc", "input", at(FIT, 5)): 1.0}
    model = Model(losses)
    assert model.table().loss("fc", "input", at(FIT, 5)) == 1.0


@pytest.mark.parametrize(("given", "expected"), [(math.nan, math.inf), (-math.inf, math.inf), (-1e-9, 0.0), (0.0, 0.0)])
def test_losses_that_are_no_numbers(given: float, expected: float) -> None:
    """-inf stands for a model whose output is not finite."""
    model = Model(family(PLAIN, lambda b: given if b in (4, 8) else 0.01))
    table = model.table()
    assert {row.loss for row in table.rows if row.config.bits in (4, 8)} == {expected}
    assert table.loss("fc", "input", at(PLAIN, 6)) == expected, "interpolated between the same"
    assert table.loss("fc", "input", at(PLAIN, 3)) == 0.01


def test_an_interpolated_loss_between_zero_and_more_is_linear() -> None:
    model = Model(family(FIT, lambda b: 0.2 if b < 8 else 0.0) | family(PLAIN, lambda _: 0.0))
    assert model.table().loss("fc", "input", at(FIT, 5)) == pytest.approx(0.15)


def test_an_interpolated_loss_beside_an_infinite_one_is_infinite() -> None:
    model = Model(family(FIT, lambda b: math.nan if b == 8 else 0.2) | family(PLAIN, lambda _: 0.1))
    table = model.table()
    assert [table.loss("fc", "input", at(FIT, bits)) for bits in (4, 5, 7)] == [0.2, math.inf, math.inf]


def test_an_interpolated_loss_falls_geometrically() -> None:
    model = Model(family(FIT, lambda b: 0.32 if b < 8 else 0.02) | family(PLAIN, lambda _: 0.01))
    table = model.table()
    assert [table.loss("fc", "input", at(FIT, b)) for b in (5, 6, 7)] == pytest.approx([0.16, 0.08, 0.04])


def losses() -> st.SearchStrategy[Losses]:
    number = st.floats(1e-8, 10) | st.sampled_from([0.0, -1e-12, math.nan, 0.1, 0.11])
    keys = [("fc", operand, at(config, bits)) for operand in "ab" for config in (PLAIN, FOUR, FIT) for bits in WIDTHS]
    return st.lists(number, min_size=len(keys), max_size=len(keys)).map(
        lambda drawn: dict(zip(keys, drawn, strict=True))
    )


def clean(loss: float) -> float:
    return math.inf if math.isnan(loss) else max(loss, 0.0)


@given(losses())
def test_whatever_the_losses(losses: Losses) -> None:
    model = Model(losses)
    table = model.table()
    assert len(model.asked) == len(set(model.asked))
    assert {row.option for row in table.rows if row.measured} == set(model.asked)
    for row in table.rows:
        if row.measured:
            assert row.loss == clean(losses[row.option])
            continue
        known = [
            r for r in table.rows if r.operand == row.operand and at(r.config, 1) == at(row.config, 1) and r.measured
        ]
        low = max((r for r in known if r.config.bits < row.config.bits), key=lambda r: r.config.bits)
        high = min((r for r in known if r.config.bits > row.config.bits), key=lambda r: r.config.bits)
        least, most = sorted((low.loss, high.loss))
        assert least * (1 - 1e-12) <= row.loss <= most * (1 + 1e-12)
    full = Model(losses).table(exhaustive=True)
    assert [row.loss for row in full.rows] == [clean(loss) for loss in losses.values()]


@given(losses(), st.integers(1, 40))
def test_interrupted_and_resumed_is_the_same(losses: Losses, after: int) -> None:
    whole = Model(losses)
    expected = whole.table()
    kept: list[SensitivityTable] = []
    first = Model(losses, stop_after=after)
    if after < len(whole.asked):
        with pytest.raises(KeyboardInterrupt):
            first.table(keep=kept.append)
        assert {row.option for row in kept[-1].rows if row.measured} == set(first.asked)
    else:
        first.table(keep=kept.append)
    second = Model(losses)
    assert second.table(known=kept[-1]) == expected
    assert first.asked + second.asked == whole.asked


def test_what_is_known_is_not_interpolated() -> None:
    losses = family(FIT, lambda b: 0.1 + b % 2 / 1000)
    full = Model(losses).table(exhaustive=True)
    model = Model(losses)
    assert model.table(known=full) == full
    assert model.asked == []


def test_what_is_known_outlives_an_interrupt() -> None:
    losses = family(FIT, lambda b: 0.1 + b % 2 / 1000) | family(PLAIN, lambda b: 4.0**-b, "weight")
    known = Model(losses).table()
    kept: list[SensitivityTable] = []
    with pytest.raises(KeyboardInterrupt):
        Model(losses, stop_after=1).table(known=known, exhaustive=True, keep=kept.append)
    assert {row.option for row in kept[-1].rows} >= {row.option for row in known.rows if row.measured}
    assert sum(row.measured for row in kept[-1].rows) == 1 + sum(row.measured for row in known.rows)


@pytest.mark.parametrize(("proxy", "images"), [("mse", 16), ("kl", 8)])
def test_other_losses_are_refused(proxy: str, images: int) -> None:
    with pytest.raises(RunDirectoryError, match="not 'kl' over 16: delete"):
        Model(family(PLAIN, lambda _: 1.0)).table(known=SensitivityTable(proxy, images, ()))


def test_kept_from_time_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1.0
        return now

    monkeypatch.setattr("autoq.sensitivity.measure.time.monotonic", clock)
    kept: list[int] = []
    Model(family(PLAIN, lambda b: 4.0**-b) | family(FOUR, lambda b: 3.0**-b)).table(
        keep=lambda table: kept.append(len(table.rows))
    )
    assert len(kept) >= 3
    assert kept == sorted(kept)
    assert kept[-1] == 14


def test_progress_reaches_the_end() -> None:
    seen: list[tuple[int, int]] = []
    Model(family(PLAIN, lambda _: 1.0)).table(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 7) for done in range(1, 8)]
