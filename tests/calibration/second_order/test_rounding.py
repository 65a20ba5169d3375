"""Second-order rounding against the paper, written out slowly, and against brute force."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from autoq.calibration.second_order.code_grid import CodeGrid
from autoq.calibration.second_order.rounding import InverseFactor, round_to_grid
from autoq.errors import CalibrationError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(tokens: int, channels: int, seed: int = 0) -> Tensor:
    """Correlated inputs of unequal size."""
    drawn = torch.randn(tokens, channels, generator=generator(seed), dtype=torch.float64)
    mixing = torch.randn(channels, channels, generator=generator(seed + 1), dtype=torch.float64)
    return drawn @ (torch.eye(channels, dtype=torch.float64) + mixing / channels**0.5)


def grid(weight: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, zero point and greatest code of each row, from its range."""
    low, high = weight.amin(1, keepdim=True).clamp(max=0), weight.amax(1, keepdim=True).clamp(min=0)
    scale = (high - low) / (2**bits - 1)
    return scale, (-low / scale).round(), torch.full_like(scale, 2.0**bits - 1)


def nearest(weight: Tensor, scale: Tensor, zero_point: Tensor, most: Tensor) -> Tensor:
    return torch.minimum((weight / scale + zero_point).round().clamp(min=0), most)


def output_errors(weight: Tensor, value: Tensor, gram: Tensor) -> Tensor:
    """Squared error of each output, summed over tokens."""
    difference = (value - weight).double()
    return ((difference @ gram.double()) * difference).sum(1)


def reference(
    weight: Tensor, scale: Tensor, zero_point: Tensor, most: Tensor, gram: Tensor, damping: float
) -> tuple[Tensor, float]:
    """Algorithm 1, a column at a time, with the inverse of what is left of the Hessian computed anew each time.

    Also returns how far the nearest of all values was from the middle of two codes.
    """
    left, hessian = weight.double().clone(), gram.double().clone()
    hessian += damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    scale, zero_point = (each.double().expand_as(left) for each in (scale, zero_point))
    codes, margin = torch.zeros_like(left), 1.0
    rest = torch.argsort(gram.diagonal(), descending=True, stable=True).tolist()
    while rest:
        inverse = torch.linalg.inv(hessian[rest][:, rest])
        column = rest[0]
        step = left[:, column] / scale[:, column] + zero_point[:, column]
        margin = min(margin, float((step - step.floor() - 0.5).abs().min()))
        codes[:, column] = torch.minimum(step.round().clamp(min=0), most[:, 0].double())
        value = (codes[:, column] - zero_point[:, column]) * scale[:, column]
        error = (left[:, column] - value) / inverse[0, 0]
        left[:, rest] -= torch.outer(error, inverse[0])
        rest = rest[1:]
    return codes, margin


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("rows", "channels"), [(5, 7), (3, 64), (4, 150)])
def test_codes_are_the_papers(bits: int, rows: int, channels: int) -> None:
    """Also over the borders of blocks of columns."""
    weight, x = torch.randn(rows, channels, generator=generator(bits)), inputs(4 * channels, channels)
    gram = (x.T @ x).float()
    expected, margin = reference(weight, *grid(weight, bits), gram, 0.01)
    assert margin > 1e-5  # else rounding errors decide
    codes = round_to_grid(weight, CodeGrid(*grid(weight, bits)), InverseFactor.of_gram(gram, 0.01))
    assert torch.equal(codes.double(), expected)


def test_scales_may_vary_along_a_row() -> None:
    weight, x = torch.randn(4, 12, generator=generator()), inputs(50, 12)
    scale = torch.rand(4, 12, generator=generator(1)) * 0.3 + 0.1
    zero_point = torch.randint(0, 8, (4, 12), generator=generator(2)).float()
    most = torch.full((4, 1), 7.0)
    gram = (x.T @ x).float()
    expected, margin = reference(weight, scale, zero_point, most, gram, 0.01)
    assert margin > 1e-5
    codes = round_to_grid(weight, CodeGrid(scale, zero_point, most), InverseFactor.of_gram(gram))
    assert torch.equal(codes.double(), expected)


def test_rows_have_their_own_width_and_do_not_depend_on_each_other() -> None:
    weight, x = torch.randn(6, 20, generator=generator()), inputs(60, 20)
    factor = InverseFactor.of_gram((x.T @ x).float())
    wide, narrow = grid(weight, 5), grid(weight, 2)
    both = [torch.cat(pair) for pair in zip(wide, narrow, strict=True)]
    together = round_to_grid(torch.cat([weight, weight]), CodeGrid(*both), factor)
    assert torch.equal(together[:6], round_to_grid(weight, CodeGrid(*wide), factor))
    assert torch.equal(together[6:], round_to_grid(weight, CodeGrid(*narrow), factor))


def test_uncorrelated_inputs_are_rounded_to_nearest() -> None:
    weight = torch.randn(4, 10, generator=generator())
    factor = InverseFactor.of_gram(torch.diag(torch.rand(10, generator=generator(1)) + 0.1))
    chosen = grid(weight, 3)
    assert torch.equal(round_to_grid(weight, CodeGrid(*chosen), factor), nearest(weight, *chosen))


def test_it_lies_between_the_best_codes_and_the_nearest() -> None:
    """Of all 8^5 codes of each row, by brute force; summed over many rows, as one of them may be unlucky."""
    channels = 5
    weight, x = torch.randn(64, channels, generator=generator()), inputs(40, channels)
    gram, (scale, zero_point, most) = x.T @ x, grid(2 * weight, 3)
    every = torch.tensor(list(product(range(8), repeat=channels)), dtype=torch.float32)
    values = [(every - zero) * step for zero, step in zip(zero_point, scale, strict=True)]
    best = torch.stack([output_errors(row, value, gram).min() for row, value in zip(weight, values, strict=True)])
    found, plain = (
        output_errors(weight, (codes - zero_point) * scale, gram)
        for codes in (
            round_to_grid(weight, CodeGrid(scale, zero_point, most), InverseFactor.of_gram(gram)),
            nearest(weight, scale, zero_point, most),
        )
    )
    assert (best <= found * (1 + 1e-9)).all()
    assert (found - best).sum() < 0.5 * (plain - best).sum()


def test_dead_channels_are_rounded_to_nearest_and_take_up_nothing() -> None:
    weight, x = torch.randn(6, 12, generator=generator()), inputs(50, 12)
    dead = [2, 7]
    x[:, dead] = 0
    chosen = grid(weight, 3)
    codes = round_to_grid(weight, CodeGrid(*chosen), InverseFactor.of_gram((x.T @ x).float(), 0.0))
    assert torch.equal(codes[:, dead], nearest(weight, *chosen)[:, dead])
    alive = [channel for channel in range(12) if channel not in dead]
    few = x[:, alive]
    without = round_to_grid(weight[:, alive], CodeGrid(*chosen), InverseFactor.of_gram((few.T @ few).float(), 0.0))
    assert torch.equal(codes[:, alive], without)


def test_inputs_that_are_all_zero_leave_the_nearest_codes() -> None:
    weight = torch.randn(3, 6, generator=generator())
    chosen = grid(weight, 3)
    codes = round_to_grid(weight, CodeGrid(*chosen), InverseFactor.of_gram(torch.zeros(6, 6)))
    assert torch.equal(codes, nearest(weight, *chosen))


@pytest.mark.parametrize("damping", [0.0, 0.01])
@pytest.mark.parametrize("kind", ["fewer tokens than channels", "equal channels", "sizes apart", "one token"])
def test_near_singular_matrices_give_finite_codes(kind: str, damping: float) -> None:
    channels = 24
    x = inputs({"fewer tokens than channels": 10, "one token": 1}.get(kind, 100), channels)
    if kind == "equal channels":
        x[:, 1::2] = x[:, ::2]
    if kind == "sizes apart":
        x *= torch.logspace(-6, 3, channels, dtype=torch.float64)
    gram, weight = (x.T @ x).float(), torch.randn(16, channels, generator=generator())
    factor = InverseFactor.of_gram(gram, damping)
    assert torch.isfinite(factor.upper).all()
    scale, zero_point, most = grid(weight, 3)
    codes = round_to_grid(weight, CodeGrid(scale, zero_point, most), factor)
    assert torch.equal(codes, codes.round())
    assert 0 <= codes.min() <= codes.max() <= 7
    errors = [
        output_errors(weight, (each - zero_point) * scale, x.T @ x).sum()
        for each in (codes, nearest(weight, scale, zero_point, most))
    ]
    if damping:
        assert errors[0] < errors[1]


def test_the_factor_is_that_of_the_damped_inverse() -> None:
    x = inputs(100, 30)
    gram = (x.T @ x).float()
    factor = InverseFactor.of_gram(gram, 0.1)
    assert (gram.diagonal()[factor.order].diff() <= 0).all()
    assert torch.equal(factor.upper, factor.upper.triu())
    damped = gram.double() + 0.1 * gram.double().diagonal().mean() * torch.eye(30, dtype=torch.float64)
    inverse = torch.linalg.inv(damped[factor.order][:, factor.order])
    torch.testing.assert_close((factor.upper.T @ factor.upper).double(), inverse, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_matrices_that_are_not_finite_are_refused(value: float) -> None:
    gram = torch.eye(4)
    gram[1, 2] = value
    with pytest.raises(CalibrationError, match="Gram matrix has NaN or infinite entries"):
        InverseFactor.of_gram(gram)


def test_weights_in_half_precision_are_rounded_like_their_values() -> None:
    weight, x = torch.randn(3, 8, generator=generator()).bfloat16(), inputs(30, 8)
    factor = InverseFactor.of_gram((x.T @ x).float())
    chosen = CodeGrid(*grid(weight.float(), 4))
    assert torch.equal(round_to_grid(weight, chosen, factor), round_to_grid(weight.float(), chosen, factor))
