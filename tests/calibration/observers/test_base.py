"""Observers against loops over batches and entries, in plain numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoq.calibration import OBSERVERS, CalibrationSettings
from autoq.calibration.observers import (
    BaseObserver,
    EmaObserver,
    MinMaxObserver,
    PercentileObserver,
    create_observers,
)
from autoq.errors import CalibrationError
from autoq.quantizers import OperandLayout

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


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_one_batch_is_its_range(numbers: list[float]) -> None:
    batch = torch.tensor(numbers).unsqueeze(0)
    expected = torch.tensor([min(numbers), max(numbers)])
    for observer in (MinMaxObserver(()), EmaObserver(()), PercentileObserver((), 100.0)):
        assert torch.equal(torch.cat(observe(observer, [batch])).flatten(), expected)


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
