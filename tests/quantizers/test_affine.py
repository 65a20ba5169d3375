"""Affine arithmetic: closed forms, and gradients against those of autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoq.quantizers._affine import (
    affine_dequantize,
    affine_fake_quantize,
    affine_fake_quantize_with_gradient,
    affine_quantize,
    choose_affine_qparams,
    choose_symmetric_qparams,
    symmetric_zero_point,
)

BOUNDS = st.floats(-(2.0**127), 2.0**127, width=32)


def test_ranges_by_hand() -> None:
    scale, zero_point = choose_affine_qparams(torch.tensor(-1.0), torch.tensor(3.0), 2, include_zero=True)
    assert (scale.item(), zero_point.item()) == (pytest.approx(4 / 3), 1.0)
    scale, zero_point = choose_affine_qparams(torch.tensor(2.0), torch.tensor(5.0), 2, include_zero=True)
    assert (scale.item(), zero_point.item()) == (pytest.approx(5 / 3), 0.0)
    scale, zero_point = choose_affine_qparams(torch.tensor(2.0), torch.tensor(5.0), 2, include_zero=False)
    assert (scale.item(), zero_point.item()) == (pytest.approx(1.0), -2.0)
    scale, zero_point = choose_symmetric_qparams(torch.tensor(-1.0), torch.tensor(7.5), 4)
    assert (scale.item(), zero_point.item()) == (pytest.approx(1.0), 8.0)
    assert [symmetric_zero_point(bits) for bits in (1, 2, 8)] == [0.5, 2.0, 128.0]


@given(a=BOUNDS, b=BOUNDS, bits=st.integers(1, 16))
def test_any_finite_range_makes_a_finite_grid(a: float, b: float, bits: int) -> None:
    lower, upper = torch.tensor(min(a, b)), torch.tensor(max(a, b))
    steps = 2**bits - 1
    for scale, zero_point in (
        choose_affine_qparams(lower, upper, bits, include_zero=True),
        choose_symmetric_qparams(lower, upper, bits),
    ):
        assert 0 < scale < torch.inf
        assert 0 <= zero_point <= steps
        assert torch.isfinite(affine_dequantize(torch.tensor([0, steps]), scale, zero_point)).all()
    scale, zero_point = choose_affine_qparams(lower, upper, bits, include_zero=True)
    assert affine_dequantize(zero_point, scale, zero_point) == 0


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fake_quantization_is_quantization_and_back(binary: bool, dtype: torch.dtype) -> None:
    bits = 1 if binary else 3
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    scale = torch.tensor([0.1, 0.3, 0.5, 1.0])
    zero_point = torch.full((4,), 0.5) if binary else torch.tensor([0.0, 2.0, 5.0, 7.0])
    codes = affine_quantize(x, scale, zero_point, bits, binary=binary)
    assert codes.dtype == torch.int32
    assert set(codes.unique().tolist()) == set(range(2**bits))
    expected = affine_dequantize(codes, scale, zero_point).to(dtype)
    # In float64 the scale is exact, and products are not rounded to float32.
    torch.testing.assert_close(affine_fake_quantize(x, scale, zero_point, bits, binary=binary), expected)
    if dtype == torch.float32:
        out = torch.empty_like(x)
        written = affine_fake_quantize(x, scale, zero_point, bits, binary=binary, out=out)
        assert written.data_ptr() == out.data_ptr()
        assert torch.equal(out, expected)


def test_nan_has_the_code_of_zero() -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf])
    assert affine_quantize(x, torch.tensor(0.5), torch.tensor(5.0), 3).tolist() == [5, 7, 0]


def composed(x: Tensor, scale: Tensor, zero_point: Tensor, greatest: int, binary: bool, clamps_rounded: bool) -> Tensor:
    """The same from operations whose gradients autograd knows; rounding passes them."""
    if clamps_rounded:
        steps = x / scale
        steps = (steps - steps.detach()) + steps.detach().round()
        least, most = -zero_point, greatest - zero_point  # the bounds themselves are codes, and let gradients through
        return torch.where(steps < least, least, torch.where(steps > most, most, steps)) * scale
    clamped = torch.minimum(torch.maximum(x / scale, -zero_point), greatest - zero_point)
    detached = clamped.detach()
    rounded = (detached.floor() + 0.5).clamp(-0.5, 0.5) if binary else detached.round()
    return (clamped + (rounded - detached)) * scale


@pytest.mark.parametrize(("binary", "clamps_rounded"), [(False, False), (True, False), (False, True)])
def test_gradients_are_those_of_autograd(binary: bool, clamps_rounded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    bits = 1 if binary else 3
    gradients, values = [], []
    for function in (affine_fake_quantize_with_gradient, composed):
        leaves = [
            x.clone(),
            torch.tensor([[0.1, 0.3, 1.0]], dtype=torch.float64),
            torch.full((1, 3), 0.5 if binary else 3.0, dtype=torch.float64),
        ]
        for leaf in leaves:
            leaf.requires_grad_()
        if function is composed:
            y = composed(*leaves, 2**bits - 1, binary, clamps_rounded)
        else:
            y = affine_fake_quantize_with_gradient(*leaves, bits, binary=binary, clamps_rounded=clamps_rounded)
        (y * weights).sum().backward()
        values.append(y.detach())
        gradients.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(values[0], values[1])
    for found, expected in zip(*gradients, strict=True):
        assert found is not None
        assert found.any()
        torch.testing.assert_close(found, expected)
