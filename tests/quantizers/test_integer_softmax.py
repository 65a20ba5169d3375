"""Integer softmax against Python's unlimited integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from autoq.errors import CalibrationError
from autoq.quantizers import IntegerSoftmax, LogIntSoftmaxQuantizer, OperandLayout
from autoq.quantizers.integer_softmax import integer_exponential, integer_reciprocals
from autoq.recipe import OperandConfig
from tests.quantizers.test_log_int_softmax import log_round

LEAST_SCALE = 2.0**-20


def reference_exponential(code: int, scale: float, n: int = 30) -> int:
    """I-BERT's, as published, one number at a time."""
    x0 = math.floor(-0.6931 / scale)
    b, c = math.floor(0.96963238 / 0.35815147 / scale), math.floor(1.0 / 0.35815147 / scale**2)
    clamped = max(code, n * x0)
    q = math.floor(Fraction(clamped, x0))
    r = clamped - x0 * q
    return max(math.floor((r * (r + b) + c) * Fraction(2) ** (n - q)), 0)


def reference_reciprocals(codes: list[int], scale: float, n: int = 30) -> list[int]:
    exponentials = [reference_exponential(code, scale, n) for code in codes]
    total = sum(exponentials)
    return [round(Fraction(total, one)) if one else 0 for one in exponentials]


def reduced_shift(scale: float, length: int) -> int:
    """The greatest n up to 30 with which a row of ones stays below 2^62."""
    c = math.floor(1.0 / 0.35815147 / scale**2)
    return next(n for n in range(30, -1, -1) if n == 0 or length * c * 2**n < 2**62)


class IntegersOnly(TorchDispatchMode):
    """Fails on any operation that takes or gives a floating-point tensor."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in self._tensors((*args, *(kwargs or {}).values(), result)):
            assert not tensor.is_floating_point(), func
        return result

    def _tensors(self, values: Iterable[Any]) -> Iterable[Tensor]:
        for value in values:
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, (list, tuple)):
                yield from self._tensors(value)


def draw_codes(seed: int, spread: float, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    codes = (torch.randn(length, generator=generator, dtype=torch.float64) * spread).round().long()
    return (codes - codes.max()).tolist()  # type: ignore[no-any-return]


rows = st.builds(draw_codes, st.integers(0, 2**31), st.sampled_from([0.0, 1.0, 10.0, 200.0, 1e4, 1e7]), st.just(17))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(codes=rows, scale=st.floats(2.0**-7, 1.6))
def test_exponential_and_reciprocals_agree_with_unlimited_integers(codes: list[int], scale: float) -> None:
    with IntegersOnly():
        exponentials = integer_exponential(torch.tensor(codes), scale)
        reciprocals = integer_reciprocals(torch.tensor([codes, codes[::-1]]), scale, -1)
    assert exponentials.dtype == reciprocals.dtype == torch.int64
    assert exponentials.tolist() == [reference_exponential(code, scale) for code in codes]
    expected = reference_reciprocals(codes, scale)
    assert reciprocals.tolist() == [expected, expected[::-1]]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(codes=rows, exponent=st.floats(-20, -6), length=st.sampled_from([17, 300, 4000]))
def test_small_scales_reduce_the_shift_and_do_not_overflow(codes: list[int], exponent: float, length: int) -> None:
    scale = 2.0**exponent
    long = codes + [0] * (length - len(codes))
    n = reduced_shift(scale, length)
    assert 0 < n <= 30
    with IntegersOnly():
        reciprocals = integer_reciprocals(torch.tensor(long), scale, 0)
    assert reciprocals.tolist() == reference_reciprocals(long, scale, n)


def test_shift_is_thirty_at_usual_scales() -> None:
    assert reduced_shift(0.002, 197) == 30
    assert int(integer_exponential(torch.zeros((), dtype=torch.long), 0.002, 197)) >> 30 == math.floor(
        1.0 / 0.35815147 / 0.002**2
    )


def test_the_mode_notices_floats() -> None:
    with pytest.raises(AssertionError), IntegersOnly():
        torch.tensor([1]).double()


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.7, 1e30, 1e-30, math.inf, math.nan])
def test_exponential_refuses_scales_without_precision(scale: float) -> None:
    with pytest.raises(CalibrationError, match="integer exponential"):
        integer_exponential(torch.zeros(3, dtype=torch.long), scale)


@pytest.mark.parametrize("scale", [0.01, 0.05, 0.2])
def test_exponential_is_close_to_the_exponential(scale: float) -> None:
    codes = -torch.arange(int(10 / scale))
    one = float(integer_exponential(torch.zeros(1, dtype=torch.long), scale))
    # The published constants: the polynomial is within 0.3 %, whole steps within half a step of ln 2 each.
    error = integer_exponential(codes, scale).double() / one / torch.exp(codes.double() * scale) - 1
    halvings = codes.neg() * scale / math.log(2) + 1
    assert (error.abs() < 0.02 + scale * halvings).all()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    codes=rows,
    scale=st.floats(2.0**-18, 20.0, width=32),
    offset=st.integers(-100, 100),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    published=st.booleans(),
)
def test_module_recovers_codes_from_scores(
    codes: list[int], scale: float, offset: int, dtype: torch.dtype, published: bool
) -> None:
    codes = [max(code, -60_000) for code in codes]
    x = ((torch.tensor(codes) + offset).to(dtype) * torch.tensor(scale, dtype=dtype)).unsqueeze(0)
    doublings = 0
    while scale / 2**doublings > (1.67 if published else 2**-6):
        doublings += 1
    finer = scale / 2**doublings
    n = reduced_shift(finer, len(codes))
    expected = reference_reciprocals([code << doublings for code in codes], finer, n)
    y = IntegerSoftmax(scale, published=published)(x, -1)
    assert y.dtype == dtype
    assert y.flatten().tolist() == [
        torch.tensor(1 / one, dtype=torch.float64).to(dtype).item() if one else 0.0 for one in expected
    ]


@pytest.mark.parametrize("bits", [4, 7])
def test_bfloat16_scores_of_seven_bits(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (5, 40), generator=torch.Generator().manual_seed(0)) - 2 ** (bits - 1)
    x = (codes * 0.07).bfloat16()
    y = IntegerSoftmax(0.07)(x, -1)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, IntegerSoftmax(0.07)((codes * 0.07).float(), -1).bfloat16())


@pytest.mark.parametrize("scale", [1e-38, 1e-12, 1e-6, 1e-3, 0.1, 0.5, 0.7, 3.0, 20.0])
def test_module_is_close_to_the_softmax(scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-128, 128, (6, 50), generator=generator).clamp(-3 / min(scale, 0.5), 3 / min(scale, 0.5))
    x = codes.double().round() * scale
    y = IntegerSoftmax(scale)(x, -1)
    assert y.isfinite().all()
    expected = torch.softmax(x, -1)
    # ln 2 is rounded up to whole steps, by 2.3 % at worst, and the exponents fall by so much less.
    assert (y - expected).abs().max() < 0.02
    likely = expected > 1e-4
    assert ((y / expected)[likely].log().abs() <= 0.01 + 0.023 * expected[likely].log().abs()).all()


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.2, 2.5])
def test_probabilities_at_steps_around_one(scale: float) -> None:
    """Reciprocals are whole numbers near the softmax's own, whatever the step; 4-bit scores have such steps."""
    scores = -scale * torch.arange(9.0).unsqueeze(0)
    expected = 1 / scores.double().softmax(-1)
    own, published = (1 / IntegerSoftmax(scale, published=chosen)(scores, -1).double() for chosen in (False, True))
    assert ((own - expected).abs() <= 0.5 + 0.25 * expected).all()
    assert not ((published - expected).abs() <= 0.5 + 0.25 * expected).all()


def test_small_probabilities_at_large_steps() -> None:
    """At 0.6, one of e^−9.6 is 60 times as large with the published constants."""
    scores = torch.tensor([[0.0, -9.6]])
    own, published = (IntegerSoftmax(0.6, published=chosen)(scores, -1)[0, 1].item() for chosen in (False, True))
    assert own == pytest.approx(math.exp(-9.6), rel=0.25)
    assert published == pytest.approx(2.0**-8, rel=0.02)


def test_dimension_and_type_are_those_of_aten() -> None:
    x = torch.randint(-20, 20, (2, 3, 5), generator=torch.Generator().manual_seed(0)) * 0.125
    softmax = IntegerSoftmax(0.125)
    assert torch.equal(softmax(x, 1), softmax(x.transpose(1, 2), -1).transpose(1, 2))
    assert softmax(x, -1, torch.float64).dtype == torch.float64
    assert torch.equal(softmax(x, -1, None), softmax(x, -1))


def test_masked_scores_and_nan() -> None:
    x = torch.tensor([[0.0, -0.5, -torch.inf, -100.0], [0.0, torch.nan, 1.0, 2.0]])
    y = IntegerSoftmax(0.5)(x, -1)
    assert (y[0, 2:] < 1e-8).all()
    assert y[0, 0] > y[0, 1] > 0
    assert y[1].isnan().all()


def test_rows_without_a_finite_greatest_are_nan_as_in_aten() -> None:
    x = torch.tensor([[0.0, torch.inf, -1.0], [-torch.inf] * 3, [0.0, -torch.inf, 1.0]])
    assert torch.equal(IntegerSoftmax(0.5)(x, -1).isnan(), torch.softmax(x, -1).isnan())


def test_gradient_is_that_of_the_softmax() -> None:
    x = (torch.randint(-20, 20, (3, 7), generator=torch.Generator().manual_seed(0)) * 0.125).requires_grad_()
    softmax = IntegerSoftmax(0.125)
    weights = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    y = softmax(x, -1)
    assert torch.equal(y.detach(), softmax(x.detach(), -1))
    (found,) = torch.autograd.grad((y * weights).sum(), x)
    (expected,) = torch.autograd.grad((torch.softmax(x, -1) * weights).sum(), x)
    torch.testing.assert_close(found, expected)
    assert found.any()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(codes=rows, scale=st.sampled_from([0.01, 0.1, 0.5]), bits=st.integers(2, 5))
def test_with_log_int_softmax_it_is_log_int_softmax(codes: list[int], scale: float, bits: int) -> None:
    """From the scores' codes to the result's codes, as if nothing but integers had been between."""
    config = OperandConfig(scheme="log_int_softmax", bits=bits)
    zero = torch.zeros(1)
    quantizer = LogIntSoftmaxQuantizer.from_range(config, OperandLayout(ndim=1, channel_axis=-1), zero, zero)
    y = IntegerSoftmax(scale, published=True)(torch.tensor(codes) * scale, 0)
    last = 2**bits - 1
    for one, code in zip(reference_reciprocals(codes, scale), quantizer.quantize(y).tolist(), strict=True):
        if one < 2**22:
            assert code == (min(log_round(one), last) if one else last)
        else:
            assert code in (min(log_round(one), last), min(log_round(one - one // 2**22), last))


@pytest.mark.parametrize("scale", [0.0, -0.5, math.inf, math.nan])
def test_refuses_scales(scale: float) -> None:
    with pytest.raises(CalibrationError, match="scale must be positive and finite"):
        IntegerSoftmax(scale)


def test_survives_export_with_a_dynamic_batch() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.softmax = IntegerSoftmax(0.25)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.softmax(x, -1)
            return y

    x = torch.randint(-20, 20, (3, 2, 5), generator=torch.Generator().manual_seed(0)) * 0.25
    program = torch.export.export(Model().eval(), (x,), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}})
    assert torch.equal(program.module()(x[:2]), Model()(x[:2]))
