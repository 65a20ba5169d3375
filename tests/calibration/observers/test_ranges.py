"""Observers against loops over batches and entries, in plain numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoq.calibration import CalibrationSettings
from autoq.calibration.observers.ranges import (
    BaseObserver,
    EmaObserver,
    MinMaxObserver,
    PercentileObserver,
    SortedRows,
    create_observers,
    least_error_range,
    quantile_bounds,
    shrunk_ranges,
)
from autoq.calibration.settings import OBSERVERS
from autoq.errors import CalibrationError
from autoq.quantizers import OperandLayout, create_quantizer
from autoq.recipe import OperandConfig
from tests.calibration.samples import uniform_reference

SHAPE = (3, 2, 5, 4)
"""Images, heads, tokens, channels."""
MAKERS: dict[str, Callable[[tuple[int, ...]], BaseObserver]] = {
    "min_max": MinMaxObserver,
    "ema": lambda axes: EmaObserver(axes, 0.3),
    "percentile": lambda axes: PercentileObserver(axes, 90.0, 0.3),
}


def batches(count: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator) ** 3 + index for index in range(count)]


def observe(observer: BaseObserver, seen: list[Tensor]) -> tuple[Tensor, Tensor]:
    for batch in seen:
        observer.update(batch)
    return observer.bounds()


def entries(batch: Tensor, axes: tuple[int, ...]) -> Iterator[list[float]]:
    """The numbers of each entry along the axes, in the order of the entries."""
    positions = sorted(axis % batch.ndim for axis in axes)
    for index in itertools.product(*(range(batch.shape[position]) for position in positions)):
        part = batch
        for position, number in reversed(list(zip(positions, index, strict=True))):
            part = part.select(position, number)
        yield part.flatten().tolist()


def quantile(numbers: list[float], share: float) -> float:
    return float(torch.quantile(torch.tensor(numbers, dtype=torch.float64), share))


def reference(kind: str, seen: list[Tensor], axes: tuple[int, ...]) -> list[tuple[float, float]]:
    bounds: list[tuple[float, float]] = []
    for number, batch in enumerate(seen):
        for entry, values in enumerate(entries(batch, axes)):
            low, high = min(values), max(values)
            if kind == "percentile":
                low, high = quantile(values, 0.1), quantile(values, 0.9)
            if number == 0:
                bounds.append((low, high))
            elif kind == "min_max":
                bounds[entry] = (min(bounds[entry][0], low), max(bounds[entry][1], high))
            else:
                old_low, old_high = bounds[entry]
                bounds[entry] = (old_low + 0.3 * (low - old_low), old_high + 0.3 * (high - old_high))
    return bounds


@pytest.mark.parametrize("axes", [(), (-3,), (-1,), (-2,), (-1, -3)], ids=str)
@pytest.mark.parametrize("kind", MAKERS)
def test_bounds_are_those_of_a_loop(kind: str, axes: tuple[int, ...]) -> None:
    seen = batches(4)
    lower, upper = observe(MAKERS[kind](axes), seen)
    assert lower.shape == upper.shape == tuple(SHAPE[a] if a - 4 in axes else 1 for a in range(4))
    expected = torch.tensor(reference(kind, seen, axes))
    torch.testing.assert_close(torch.stack([lower.flatten(), upper.flatten()], 1), expected)


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
def test_the_order_of_batches_does_not_matter_to_minimum_and_maximum(rows: list[list[float]], random: object) -> None:
    seen = [torch.tensor([row]) for row in rows]
    shuffled = list(seen)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    lower, upper = observe(MinMaxObserver((-1,)), seen)
    again = observe(MinMaxObserver((-1,)), shuffled)
    assert torch.equal(lower, again[0])
    assert torch.equal(upper, again[1])
    assert lower.flatten().tolist() == [min(column) for column in zip(*rows, strict=True)]
    assert upper.flatten().tolist() == [max(column) for column in zip(*rows, strict=True)]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_one_batch_is_its_range(numbers: list[float]) -> None:
    batch = torch.tensor(numbers).unsqueeze(0)
    expected = torch.tensor([min(numbers), max(numbers)])
    for observer in (MinMaxObserver(()), EmaObserver(()), PercentileObserver((), 100.0)):
        assert torch.equal(torch.cat(observe(observer, [batch])).flatten(), expected)


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60),
    st.floats(50, 100),
)
def test_quantiles_are_those_of_torch(numbers: list[float], percentile: float) -> None:
    lower, upper = quantile_bounds(torch.tensor([numbers]), (percentile, 75.0))
    for index, share in enumerate((percentile / 100, 0.75)):
        assert float(lower[index]) == pytest.approx(quantile(numbers, 1 - share), rel=1e-4, abs=1e-3)
        assert float(upper[index]) == pytest.approx(quantile(numbers, share), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("percentile", [60.0, 99.0, 99.99, 99.999])
def test_quantiles_of_large_batches_are_exact(percentile: float) -> None:
    rows = torch.randn(2, 300_001, generator=torch.Generator().manual_seed(0))
    lower, upper = quantile_bounds(rows, (percentile,))
    shares = torch.tensor([1 - percentile / 100, percentile / 100], dtype=torch.float64)
    expected = torch.quantile(rows.double(), shares, dim=1).float()
    torch.testing.assert_close(torch.cat([lower, upper]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("value", [0.0, -2.5, 7.0])
def test_a_constant_is_its_own_bounds(kind: str, value: float) -> None:
    lower, upper = observe(MAKERS[kind]((-1,)), [torch.full(SHAPE, value)] * 3)
    assert lower.flatten().tolist() == upper.flatten().tolist() == [value] * 4


@pytest.mark.parametrize("kind", ["ema", "percentile"])
def test_averages_of_the_whole_are_not_the_extremes_of_averages(kind: str) -> None:
    """One channel is loud in one batch, another in the next."""
    first, second = torch.ones(1, 50, 2), torch.ones(1, 50, 2)
    first[..., 0], second[..., 1] = 11.0, 11.0
    whole = observe(MAKERS[kind](()), [first, second])[1]
    channels = observe(MAKERS[kind]((-1,)), [first, second])[1]
    assert float(whole) == pytest.approx(11.0)
    assert float(channels.max()) == pytest.approx(8.0)


def test_the_averaging_constant_weighs_the_new_batch() -> None:
    observer = EmaObserver(())
    observe(observer, [torch.tensor([0.0, 1.0]), torch.tensor([-10.0, 101.0])])
    assert [float(bound) for bound in observer.bounds()] == pytest.approx([-0.1, 2.0])


def nbytes(of: object) -> int:
    """Memory that every tensor reachable from an object holds on to, views' whole storage included."""
    if isinstance(of, Tensor):
        return of.untyped_storage().nbytes()
    if isinstance(of, list | tuple | set):
        return sum(nbytes(item) for item in of)
    if isinstance(of, dict):
        return sum(nbytes(item) for item in of.values())
    return nbytes(vars(of)) if hasattr(of, "__dict__") else 0


@pytest.mark.parametrize("axes", [(), (-1,), (-3,)], ids=str)
@pytest.mark.parametrize("kind", MAKERS)
def test_memory_does_not_grow_with_the_batches(kind: str, axes: tuple[int, ...]) -> None:
    observer = MAKERS[kind](axes)
    sizes = []
    for batch in batches(20):
        observer.update(batch.repeat(8, 1, 1, 1))
        sizes.append(nbytes(observer))
    bounds = 2 * 4 * max(1, *(SHAPE[axis] for axis in axes), 1)
    assert set(sizes) == {bounds}


@pytest.mark.parametrize("kind", MAKERS)
def test_bounds_are_float32_whatever_the_model_is(kind: str) -> None:
    for dtype in (torch.bfloat16, torch.float64):
        bounds = observe(MAKERS[kind]((-1,)), [batch.to(dtype) for batch in batches(2)])
        assert {bound.dtype for bound in bounds} == {torch.float32}


@pytest.mark.parametrize("kind", MAKERS)
def test_without_a_batch_there_are_no_bounds(kind: str) -> None:
    with pytest.raises(CalibrationError, match="no calibration images"):
        MAKERS[kind](()).bounds()


def test_only_the_observers_that_are_asked_for_run() -> None:
    heads, plain = OperandLayout(4, -1, head_axis=-3), OperandLayout(3, -1)
    for name in OBSERVERS:
        observers = create_observers(heads, CalibrationSettings(observer=name, percentile=99.0, averaging_constant=0.2))
        assert set(observers) == ({"tensor", "channel", "head"} if name in ("ema", "percentile") else set())
        for observer in observers.values():
            assert isinstance(observer, EmaObserver)
            assert isinstance(observer, PercentileObserver) == (name == "percentile")
            assert observer.averaging_constant == 0.2
            assert getattr(observer, "percentile", 99.0) == 99.0
    axes = {key: each.kept_axes for key, each in create_observers(heads, CalibrationSettings(observer="ema")).items()}
    assert axes == {"tensor": (), "channel": (-1,), "head": (-3,)}
    assert set(create_observers(plain, CalibrationSettings(observer="ema"))) == {"tensor", "channel"}


@pytest.mark.parametrize("value", [49.0, 100.5, float("nan")])
def test_percentiles_that_turn_bounds_around_are_refused(value: float) -> None:
    with pytest.raises(CalibrationError, match=f"percentile must be between 50 and 100, got {value:g}"):
        CalibrationSettings(percentile=value)


@pytest.mark.parametrize("value", [-0.1, 1.5])
def test_averaging_constants_beyond_one_are_refused(value: float) -> None:
    with pytest.raises(CalibrationError, match=f"averaging_constant must be between 0 and 1, got {value:g}"):
        CalibrationSettings(averaging_constant=value)


@settings(deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50),
    st.floats(2**-10, 10, width=32),
    st.integers(0, 15),
    st.sampled_from([1, 2, 4]),
)
def test_errors_from_sorted_values_are_those_of_the_values(
    numbers: list[float], scale: float, zero_point: int, bits: int
) -> None:
    row = torch.tensor([numbers, numbers])
    scales = torch.tensor([[scale, 2 * scale]] * 2)
    zero_points = torch.full_like(scales, min(zero_point, 2**bits - 1))
    found = SortedRows.of_rows(row).uniform_errors(scales, zero_points, bits)
    for index in range(2):
        expected = uniform_reference(row[0], float(scales[0, index]), float(zero_points[0, index]), bits)
        assert found[:, index].tolist() == pytest.approx([expected] * 2, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("kind", ["normal", "heavy", "positive"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("length", [60, 20_000])
def test_omse_takes_the_best_of_ninety(length: int, bits: int, kind: str) -> None:
    """By quantizing the values with every candidate; lengths on either side of where thresholds are looked up."""
    normal = torch.randn(2, length, generator=torch.Generator().manual_seed(1))
    rows = {"normal": normal, "heavy": normal.sign() * normal.abs() ** 4, "positive": normal.exp()}[kind]
    config = OperandConfig(scheme="uniform", bits=bits)
    candidates = shrunk_ranges(rows.amin(1), rows.amax(1))
    assert candidates[0].shape == (90, 2)
    lower, upper = least_error_range(rows, config, candidates, lambda: SortedRows.of_rows(rows))
    for row, low, high in zip(rows, lower.tolist(), upper.tolist(), strict=True):

        def error(low: float, high: float, row: Tensor = row) -> float:
            low, high = min(low, 0.0), max(high, 0.0)
            scale = (high - low) / (2**bits - 1)
            parameters = {"scale": torch.tensor([scale]), "zero_point": torch.tensor([-low / scale]).round()}
            quantizer = create_quantizer(config, OperandLayout(1, -1), parameters)
            return float((quantizer(row).double() - row).square().sum())

        shrinks = [1 - 0.01 * step for step in range(90)]
        every = [error(shrink * float(row.min()), shrink * float(row.max())) for shrink in shrinks]
        assert error(low, high) == pytest.approx(min(every), rel=1e-4)
        assert high == pytest.approx(shrinks[every.index(min(every))] * float(row.max()), rel=1e-5)
        assert low == pytest.approx(shrinks[every.index(min(every))] * float(row.min()), rel=1e-5)
