from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoq.quantizers import HadamardQuantizer, OperandLayout, UniformQuantizer
from autoq.recipe import OperandConfig
from autoq.reconstruction.rounding import DroppedQuantizer, LearnedRounding, drop

WEIGHT = OperandLayout(ndim=2, channel_axis=-2, group_axis=-1, instances_per_image=0)
INPUT = OperandLayout(ndim=2, channel_axis=-1)


def weight(seed: int = 0) -> Tensor:
    return torch.randn(5, 12, generator=torch.Generator().manual_seed(seed))


def quantizer(bits: int = 3, granularity: str = "channel", **fields: object) -> UniformQuantizer:
    config = OperandConfig.model_validate({"scheme": "uniform", "bits": bits, "granularity": granularity, **fields})
    shape = WEIGHT.parameter_shape((5, 12), config)
    # Tighter than the weights reach, so that some are clipped.
    return UniformQuantizer.from_range(config, WEIGHT, torch.full(shape, -1.2), torch.full(shape, 0.9))


@settings(deadline=None)
@given(
    bits=st.integers(2, 8),
    granularity=st.sampled_from(["tensor", "channel"]),
    symmetric=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_starts_at_the_weight_itself_clipped(bits: int, granularity: str, symmetric: bool, seed: int) -> None:
    chosen, w = quantizer(bits, granularity, symmetric=symmetric), weight(seed)
    scale, zero_point = chosen.scale, chosen.zero_point
    clipped = w.clamp(-zero_point * scale, (2**bits - 1 - zero_point) * scale)
    found = LearnedRounding(w, chosen)(w).detach()
    torch.testing.assert_close(found, clipped, atol=1e-5, rtol=1e-4)


@settings(deadline=None)
@given(bits=st.integers(2, 8), seed=st.integers(0, 1000))
def test_untrained_codes_are_those_of_the_nearest(bits: int, seed: int) -> None:
    chosen, w = quantizer(bits), weight(seed)
    assert torch.equal(LearnedRounding(w, chosen).codes(), chosen.quantize(w))


@settings(deadline=None)
@given(bits=st.integers(2, 8), seed=st.integers(0, 1000))
def test_given_codes_stay_or_move_one_step_towards_the_weight(bits: int, seed: int) -> None:
    """They stay until something is learned, and start a tenth of a step away at most."""
    chosen, w = quantizer(bits), weight(seed)
    given = torch.randint(2**bits, (5, 12), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    rounding = LearnedRounding(w, chosen, given)
    value, step = chosen.dequantize(given), chosen.scale
    neighbour = torch.where(value > w, value - step, value + step)
    low, high = torch.minimum(value, neighbour), torch.maximum(value, neighbour)
    limits = -chosen.zero_point * step, (2**bits - 1 - chosen.zero_point) * step
    start = value + 0.1 * (torch.minimum(torch.maximum(w, low), high) - value)
    low, high, start = (torch.minimum(torch.maximum(each, limits[0]), limits[1]) for each in (low, high, start))
    torch.testing.assert_close(rounding(w).detach(), start, atol=1e-5, rtol=1e-4)
    assert torch.equal(rounding.codes(), given.int())
    for sign, expected in ((-10.0, low), (10.0, high)):
        with torch.no_grad():
            rounding.direction.fill_(sign)
        torch.testing.assert_close(chosen.dequantize(rounding.codes()), expected, atol=1e-5, rtol=1e-4)


@settings(deadline=None)
@given(bits=st.integers(2, 8), seed=st.integers(0, 1000))
def test_codes_are_the_one_below_or_the_one_above_by_the_sign_of_v(bits: int, seed: int) -> None:
    chosen, w = quantizer(bits), weight(seed)
    rounding = LearnedRounding(w, chosen)
    with torch.no_grad():
        rounding.direction.copy_(torch.randn(5, 12, generator=torch.Generator().manual_seed(seed + 1)))
    for row in range(5):
        scale, zero_point = float(chosen.scale[row]), float(chosen.zero_point[row])
        for column in range(12):
            up = 1 if float(rounding.direction.detach()[row, column]) >= 0 else 0
            below = int((w[row, column] / scale).floor())
            expected = min(max(below + up + int(zero_point), 0), 2**bits - 1)
            assert int(rounding.codes()[row, column]) == expected


def test_groups_of_a_weight_have_their_own_steps() -> None:
    chosen, w = quantizer(3, "group", groups=3), weight()
    assert torch.equal(LearnedRounding(w, chosen).codes(), chosen.quantize(w))


def test_once_decided_the_soft_weight_is_the_dequantized_codes() -> None:
    chosen, w = quantizer(), weight()
    rounding = LearnedRounding(w, chosen)
    with torch.no_grad():
        rounding.direction.copy_(20 * torch.randn(5, 12, generator=torch.Generator().manual_seed(3)).sign())
    torch.testing.assert_close(rounding(w), chosen.dequantize(rounding.codes()))
    assert rounding.undecided(2.0).item() == 0


@pytest.mark.parametrize("exponent", [2.0, 7.5, 20.0])
def test_the_regulariser_is_equation_24(exponent: float) -> None:
    rounding = LearnedRounding(weight(), quantizer())
    total = 0.0
    for v in rounding.direction.detach().double().flatten().tolist():
        h = min(max(1 / (1 + 2.718281828459045**-v) * 1.2 - 0.1, 0.0), 1.0)
        total += 1 - abs(2 * h - 1) ** exponent
    assert rounding.undecided(exponent).item() == pytest.approx(total / 60, rel=1e-5)


def test_the_gradient_is_that_of_the_soft_weight() -> None:
    w = weight().double().float()
    rounding = LearnedRounding(w, quantizer())
    direction = torch.randn(5, 12, generator=torch.Generator().manual_seed(4))
    (rounding(w) * direction).sum().backward()
    gradient, step = rounding.direction.grad, 1e-3
    assert gradient is not None
    for index in (0, 17, 42, 59):
        row, column = divmod(index, 12)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                rounding.direction[row, column] += sign * step
                values.append((rounding(w).double() * direction).sum().item())
                rounding.direction[row, column] -= sign * step
        assert float(gradient[row, column]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=2e-3)


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.9])
def test_each_element_is_dropped_with_its_probability(probability: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 301, generator=generator)
    mixed = drop(x.round(), x, probability, generator)
    assert bool(((mixed == x) | (mixed == x.round())).all())
    assert float((mixed == x).float().mean()) == pytest.approx(probability, abs=0.01)
    # No position is favoured: bytes of a word are all equally random.
    again = torch.stack([drop(x.round(), x, probability, generator)[0, :8] == x[0, :8] for _ in range(2000)])
    assert again.float().mean(0).sub(probability).abs().max() < 0.05


def test_nothing_is_dropped_with_probability_zero() -> None:
    x = torch.randn(10, 10)
    assert torch.equal(drop(x.round(), x, 0.0, torch.Generator()), x.round())


def test_dropped_elements_pass_their_gradient_and_leave_the_scale_alone() -> None:
    config = OperandConfig(scheme="uniform", bits=3)
    own = UniformQuantizer.from_range(config, INPUT, torch.tensor([[-1.0]]), torch.tensor([[1.0]]))
    own.scale.requires_grad_()
    module = DroppedQuantizer(own, 0.5, torch.Generator().manual_seed(0))
    x = torch.linspace(-4, 4, 400).reshape(20, 20).requires_grad_()
    y = module(x)
    y.sum().backward()
    assert x.grad is not None
    kept = y.detach() != x.detach()
    inside = (x.detach() > -1.1) & (x.detach() < 1.1)
    assert bool((x.grad[~kept] == 1).all())
    assert bool((x.grad[kept & ~inside & (x.detach().abs() > 1.5)] == 0).all())
    scale, zero_point = own.scale.detach(), own.zero_point
    steps = (x.detach() / scale).clamp(-zero_point, 7 - zero_point)
    errors = torch.where((x.detach() / scale) == steps, steps.round() - steps, steps.round())
    assert own.scale.grad is not None
    assert float(own.scale.grad) == pytest.approx(float(errors[kept].sum()), rel=1e-4)


def test_a_weight_in_another_basis_is_rounded_there() -> None:
    config = OperandConfig(scheme="hadamard", bits=3, granularity="channel", hadamard_block=4)
    layout = replace(WEIGHT, summed_axis=-1)
    chosen, w = (
        HadamardQuantizer.from_range(config, layout, torch.full((5, 1), -4.0), torch.full((5, 1), 4.0)),
        weight(),
    )
    rounding = LearnedRounding(w, chosen)
    torch.testing.assert_close(rounding(w).detach(), w, atol=1e-5, rtol=1e-4)
    assert torch.equal(rounding.codes(), chosen.quantize(w))
    with torch.no_grad():
        rounding.direction.copy_(torch.randn(5, 12, generator=torch.Generator().manual_seed(1)).sign() * 1e3)
        torch.testing.assert_close(rounding(w), chosen.dequantize(rounding.codes()), atol=1e-5, rtol=1e-4)
        assert not torch.equal(rounding.codes(), chosen.quantize(w))
    rounding(w).square().sum().backward()
