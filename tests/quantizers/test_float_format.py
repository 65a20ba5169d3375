"""Element formats: their values are those of the specifications, and rounding is to the nearest of them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoq.quantizers._float_format import E2M1, E4M3, INT8, FloatFormat, floor_power_of_two, power_by_logarithm

FORMATS = {"e4m3": E4M3, "e2m1": E2M1, "int8": INT8}


def e4m3_values() -> list[float]:
    """Decode all 256 patterns by torch's own type."""
    patterns = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
    return sorted(set(patterns[patterns.isfinite()].tolist()))


def test_values_are_those_of_the_specifications() -> None:
    assert E4M3.levels().tolist() == e4m3_values()
    positive = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    assert E2M1.levels().tolist() == [-value for value in reversed(positive)] + [0.0, *positive]
    assert INT8.levels().tolist() == [number / 64 for number in range(-127, 128)]


def nearest(x: float, element: FloatFormat) -> float:
    """Search all values; of two equally near ones take that with the even place from zero, its mantissa being even."""
    levels = element.levels().double().tolist()
    middle = len(levels) // 2
    x = min(max(x, levels[0]), levels[-1])
    return min(zip(levels, range(-middle, middle + 1), strict=True), key=lambda v: (abs(v[0] - x), v[1] % 2))[0]


@pytest.mark.parametrize("name", FORMATS)
@given(x=st.floats(-600, 600, width=32) | st.floats(-8, 8, width=32) | st.sampled_from([0.25, 2.5, 5.0, -1.25, 0.75]))
@settings(max_examples=300, deadline=None)
def test_rounding_finds_the_nearest_value(name: str, x: float) -> None:
    element = FORMATS[name]
    for dtype in (torch.float32, torch.float64):
        found = element.round(torch.tensor([x], dtype=dtype))
        assert found.item() == nearest(x, element)
        assert element.levels()[element.codes(found).long()].item() == found.item()


@pytest.mark.parametrize("name", FORMATS)
def test_ties_go_to_even_mantissas(name: str) -> None:
    element = FORMATS[name]
    levels = element.levels().double()
    between = (levels[1:] + levels[:-1]) / 2
    expected = [nearest(value, element) for value in between.tolist()]
    assert element.round(between).tolist() == expected


def test_e4m3_rounds_as_torch_does() -> None:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 2.2, 20_000)
    x = torch.cat([x, x.bfloat16().float()]).clamp(-448, 448)
    assert torch.equal(E4M3.round(x), x.to(torch.float8_e4m3fn).float())


@given(x=st.floats(2.0**-120, 2.0**120, width=32))
@settings(deadline=None)
def test_powers_of_two_are_exact(x: float) -> None:
    expected = 2.0 ** (math.frexp(x)[1] - 1)
    assert floor_power_of_two(torch.tensor([x, -x])).tolist() == [expected, expected]


def test_powers_by_logarithm_are_the_same() -> None:
    """Beside powers of two above all, where a logarithm is easily off."""
    powers = torch.arange(-120.0, 120.0).exp2()
    beside = [powers, torch.nextafter(powers, powers * 2), torch.nextafter(powers, powers / 2)]
    x = torch.cat([*beside, torch.randn(2000, generator=torch.Generator().manual_seed(0)), torch.zeros(1)])
    assert torch.equal(power_by_logarithm(x), floor_power_of_two(x))


def test_what_is_no_number() -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 1e-45, -0.0])
    rounded: Tensor = E2M1.round(x)
    assert rounded[0].isnan()
    assert rounded[1:].tolist() == [6.0, -6.0, 0.0, 0.0]
    assert E2M1.codes(rounded).tolist() == [7, 14, 0, 7, 7]
