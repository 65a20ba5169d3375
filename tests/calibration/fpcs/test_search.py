"""The progressive search against brute force over everything it could reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoq.calibration.fpcs.layer_error import QuadraticError, affine_loss
from autoq.calibration.fpcs.scaled_loss import log_unit, scaled_loss
from autoq.calibration.fpcs.search import (
    Axis,
    Grid,
    Loss,
    affine_grid,
    base_grid,
    best_bases,
    log_grid,
    progressive_search,
)
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.recipe import OperandConfig
from tests.calibration.fpcs.exhaustive import exhaustive, reachable

FPCS = FpcsSettings()
SMALL = FpcsSettings(candidates=32, kept=8, steps=3)
CPU = torch.device("cpu")
BASES = range(10, 138)
"""AdaLog's, by their numerators."""


def normal(rows: int, n: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, n, generator=torch.Generator().manual_seed(seed))


def heavy_tailed(rows: int, n: int, seed: int = 0) -> Tensor:
    return normal(rows, n, seed) / (normal(rows, n, seed + 1).abs() + 0.05)


def skewed(rows: int, n: int, seed: int = 0) -> Tensor:
    return normal(rows, n, seed).exp() - 0.2


def grid_of(values: Tensor, bits: int, settings: FpcsSettings, *, symmetric: bool = False) -> Grid:
    low = (values.quantile(1 - settings.quantile, dim=1), values.amin(1))
    high = (values.quantile(settings.quantile, dim=1), values.amax(1))
    return affine_grid(low, high, bits, settings, symmetric=symmetric)


def own_error(values: Tensor) -> QuadraticError:
    return QuadraticError(values[:, None, None, :])


class Counted:
    """Counts the candidates that a loss is asked for."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.loss = loss
        self.evaluations = 0

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        self.evaluations += first.shape[1]
        return self.loss(first, second)


@pytest.mark.parametrize("draw", [normal, heavy_tailed, skewed])
@pytest.mark.parametrize(("bits", "symmetric"), [(2, False), (3, False), (4, False), (4, True), (6, False)])
def test_nearly_as_good_as_brute_force(draw: Callable[..., Tensor], bits: int, symmetric: bool) -> None:
    values = draw(6, 300)
    grid = grid_of(values, bits, FPCS, symmetric=symmetric)
    loss = Counted(affine_loss(own_error(values), bits))
    found = progressive_search(loss, grid, FPCS.kept, FPCS.steps)[2]
    progressive, loss.evaluations = loss.evaluations, 0
    best = exhaustive(loss, grid, FPCS.steps, at_once=16)[2]
    assert (found >= best).all()
    assert (found <= 1.01 * best).all(), found / best
    assert progressive == FPCS.candidates * FPCS.steps
    assert loss.evaluations > 100 * progressive


@pytest.mark.parametrize("window", ["centre", "observed"])
def test_keeping_everything_is_brute_force(window: str) -> None:
    settings = replace(SMALL, zero_point_window=window)  # type: ignore[arg-type]
    values = heavy_tailed(5, 100)
    grid = grid_of(values, 4, settings)
    loss = affine_loss(own_error(values), 4)
    everything = progressive_search(loss, grid, 1 << 20, settings.steps)
    for found, best in zip(everything, exhaustive(loss, grid, settings.steps), strict=True):
        assert torch.equal(found, best)


def test_brute_force_on_a_toy_problem() -> None:
    values = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    grid = Grid(
        torch.tensor([[0.5, 2.0]]),
        torch.tensor([[0.0, 0.0]]),
        Axis(torch.tensor([[1.0]]), 3),
        Axis(torch.tensor([[0.0]]), 1),
    )
    scales = torch.cat([first for first, _ in reachable(grid, 2)], 1)[0]
    assert sorted(scales.tolist()) == [0.0, 0.5, 0.5, 1.0, 1.5, 2.0, 2.0, 2.5]
    scale, _, error = exhaustive(affine_loss(own_error(values), 2), grid, 2)
    assert scale.item() == 1.0
    assert error.item() == 0.0


def test_the_best_of_all_steps_is_returned() -> None:
    """A loss that is good only at a point of the first grid, which its neighbours do not contain."""
    grid = affine_grid(
        (torch.tensor([-1.0]), torch.tensor([-2.0])),
        (torch.tensor([1.0]), torch.tensor([2.0])),
        4,
        FPCS,
        symmetric=False,
    )
    target = grid.first[0, 37]

    def loss(first: Tensor, second: Tensor) -> Tensor:
        return (first != target).float() + second * 1e-3

    assert progressive_search(loss, grid, 16, 4)[0].item() == target


def test_the_incumbent_wins_ties_and_is_never_lost() -> None:
    values = normal(3, 50)
    grid = grid_of(values, 4, FPCS)
    incumbent = (torch.full((3, 1), 7.0), torch.full((3, 1), 2.0))

    def distance(first: Tensor, second: Tensor) -> Tensor:
        return (first - 7.0).abs() + (second - 2.0).abs()

    found = progressive_search(distance, grid, 16, 4, incumbent=incumbent)
    assert torch.equal(found[0], incumbent[0])
    found = progressive_search(lambda first, _: torch.zeros_like(first), grid, 16, 4, incumbent=incumbent)
    assert torch.equal(found[1], incumbent[1])


def test_of_the_last_step_as_in_the_authors_code() -> None:
    """Against a loop over steps: what the first step has found, and the incumbent, are lost."""
    grid = grid_of(normal(3, 50), 4, FPCS)
    spike = grid.first[:, :1]

    def loss(first: Tensor, second: Tensor) -> Tensor:
        return torch.where(first == spike, -1.0, (first - 0.9 * spike).abs() + second)

    incumbent = (spike, grid.second[:, :1])
    assert (progressive_search(loss, grid, 16, 4, incumbent=incumbent)[2] == -1).all()
    found = progressive_search(loss, grid, 16, 4, incumbent=incumbent, of_last_step=True)
    first, second = grid.first, grid.second
    for level in range(3):
        order = loss(first, second).sort(dim=1, stable=True).indices[:, :16]
        first, second = grid.around(first.gather(1, order), second.gather(1, order), level)
    least = loss(first, second).min(1, keepdim=True)
    assert (found[2] > -1).all()
    assert torch.equal(found[2], least.values)
    assert torch.equal(found[0], first.gather(1, least.indices))


def test_a_screen_only_ranks() -> None:
    values = heavy_tailed(4, 200)
    grid = grid_of(values, 3, FPCS)
    loss = affine_loss(own_error(values), 3)
    plain = progressive_search(loss, grid, FPCS.kept, FPCS.steps)
    screened = progressive_search(loss, grid, FPCS.kept, FPCS.steps, screen=lambda a, b: 5 * loss(a, b) + 1)
    torch.testing.assert_close(screened[2], plain[2])
    nonsense = progressive_search(loss, grid, FPCS.kept, FPCS.steps, screen=lambda a, _: -a)
    assert torch.equal(nonsense[2], loss(*nonsense[:2]))


def test_a_coarse_loss_chooses_among_the_first_combinations() -> None:
    """What it ranks far behind is not evaluated; the order of the grid, which decides ties, stays."""
    first = torch.arange(40.0).unsqueeze(0)
    grid = Grid(first, torch.zeros_like(first), Axis(torch.ones(1, 1), 1), Axis(torch.ones(1, 1), 1))
    seen: list[Tensor] = []

    def loss(first: Tensor, second: Tensor) -> Tensor:
        seen.append(first)
        return (first - 30).abs() + second

    found = progressive_search(loss, grid, 2, 1, coarse=lambda first, second: (first - 20).abs() + second)
    assert seen[0][0].tolist() == [*range(14, 26)]
    assert float(found[0]) == 25
    progressive_search(loss, grid, 10, 1, coarse=lambda first, _: -first)
    assert torch.equal(seen[1], first)
    bases = best_bases(loss, 0.0, range(40), 2, CPU, coarse=lambda first, second: (first - 20).abs() + second)
    assert bases.tolist() == [25, 24]


def test_deterministic() -> None:
    values = heavy_tailed(8, 200)
    runs = [progressive_search(affine_loss(own_error(values), 4), grid_of(values, 4, FPCS), 16, 4) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("constant", [0.0, -3.0, 1e-30])
def test_constant_values_give_finite_candidates(bits: int, constant: float) -> None:
    values = torch.full((2, 10), constant)
    for symmetric in (False, True):
        grid = grid_of(values, bits, FPCS, symmetric=symmetric)
        scale, zero_point, error = progressive_search(
            affine_loss(own_error(values), bits, binary=symmetric and bits == 1), grid, 16, 4
        )
        assert (scale > 0).all()
        assert torch.isfinite(torch.cat([scale, zero_point, error], 1)).all()


def test_published_first_grid() -> None:
    """At 4 bits, 16 scales from the 0.9-quantile span to the whole span, times the 8 zero points around 8."""
    low = (torch.tensor([-3.0]), torch.tensor([-6.0]))
    high = (torch.tensor([4.5]), torch.tensor([9.0]))
    grid = affine_grid(low, high, 4, FPCS, symmetric=False)
    assert grid.first.shape == (1, 128)
    assert sorted(set(grid.second[0].tolist())) == list(range(4, 12))
    torch.testing.assert_close(grid.first[0].unique(), torch.linspace(0.5, 1.0, 16))
    scale, zero_point = grid.around(torch.tensor([[0.7]]), torch.tensor([[5.0]]), 0)
    torch.testing.assert_close(scale[0], 0.7 + torch.linspace(-0.5, 0.5, 8) / 30)
    assert (zero_point == 5).all()
    finer = grid.around(torch.tensor([[0.7]]), torch.tensor([[5.0]]), 1)[0]
    torch.testing.assert_close(finer[0], 0.7 + torch.linspace(-0.5, 0.5, 8) / 30 / 7.5)


@pytest.mark.parametrize(("bits", "zero_points"), [(3, range(8)), (4, range(16)), (6, range(24, 40))])
def test_published_zero_points_of_layer_inputs(bits: int, zero_points: range) -> None:
    """All codes up to 16, else the middle 16; as many scales as make 128 combinations."""
    low, high = (torch.tensor([-3.0]), torch.tensor([-6.0])), (torch.tensor([4.5]), torch.tensor([9.0]))
    grid = affine_grid(low, high, bits, FPCS, symmetric=False, all_zero_points=True)
    assert sorted(set(grid.second[0].tolist())) == list(zero_points)
    assert len(grid.first[0].unique()) == 128 // len(zero_points)


def test_spans_as_they_are_and_as_shares() -> None:
    """A range of 2 to 5 spans 5 with zero and 3 without; PTQ4ViT's candidates go from 1 to 120 % of it."""
    low, high = (torch.tensor([2.5]), torch.tensor([2.0])), (torch.tensor([4.0]), torch.tensor([5.0]))
    for include_zero, (narrow, wide) in ((True, (4.0, 5.0)), (False, (1.5, 3.0))):
        grid = affine_grid(low, high, 4, FPCS, symmetric=False, include_zero=include_zero)
        torch.testing.assert_close(grid.first[0].unique()[[0, -1]], torch.tensor([narrow, wide]) / 15)
    settings = replace(FPCS, candidates=100, spans=(0.01, 1.2))
    grid = affine_grid(low, high, 4, settings, symmetric=True)
    torch.testing.assert_close(grid.first[0], torch.linspace(0.01, 1.2, 100) * 10 / 15)


@pytest.mark.parametrize(("bits", "count"), [(1, 1), (2, 2), (3, 4), (5, 16), (8, 16)])
def test_zero_points_are_codes(bits: int, count: int) -> None:
    low, high = torch.tensor([-0.1, -5.0, 1.0]), torch.tensor([9.0, 0.0, 2.0])
    for window in ("centre", "observed"):
        settings = replace(FPCS, zero_point_window=window)
        grid = affine_grid((low / 2, low), (high / 2, high), bits, settings, symmetric=False)
        for row in grid.second:
            assert len(row.unique()) == count
            assert row.min() >= 0
            assert row.max() <= 2**bits - 1
    if bits >= 3:
        observed = [0, 2**bits - 1, 0]
        assert all(code in row for code, row in zip(observed, grid.second.tolist(), strict=True))


def test_published_grid_after_gelu() -> None:
    bases = torch.tensor([17, 19, 22, 26, 30, 31, 40, 99])
    grid = log_grid(0.5, 1.0, bases, FPCS)
    assert grid.first.shape == (1, 128)
    assert grid.first[0].tolist() == bases.repeat_interleave(16).tolist()
    torch.testing.assert_close(grid.second[0, :16], torch.linspace(0.5, 1.0, 16))
    first, second = grid.around(torch.tensor([[17.0, 99.0]]), torch.tensor([[0.75, 0.8]]), 0)
    assert first[0].tolist() == [17] * 4 + [99] * 4
    torch.testing.assert_close(second[0, :4], 0.75 + torch.linspace(-0.5, 0.5, 4) / 30)


def test_every_base_after_softmax() -> None:
    grid = base_grid(1.0, BASES, CPU)
    assert grid.first[0].tolist() == list(range(10, 138))
    values = (2 * normal(3, 40)).softmax(1)
    config = OperandConfig(scheme="adalog", bits=3)
    loss = scaled_loss(own_error(values), log_unit(config, values.device), torch.ones(3, 1))
    errors = loss(grid.first, grid.second)
    base, scale, error = progressive_search(loss, grid, 128, 1)
    assert error.item() == errors.min()
    assert base.item() == 10 + int(errors.argmin())
    assert scale.item() == 1


def after_gelu(overflow: str = "zero_code") -> tuple[Loss, float]:
    """Return the loss of base and relative scale on GELU outputs, and the narrowest relative scale."""
    values = torch.nn.functional.gelu(2 * normal(1, 400))
    config = OperandConfig.model_validate({"scheme": "adalog", "bits": 3, "overflow": overflow})
    shift = torch.tensor(0.16997)
    positive = values[values > 0].sort().values
    narrow = (positive[int(0.9 * len(positive))] + shift) / (values.max() + shift)
    return scaled_loss(
        own_error(values).shifted(shift), log_unit(config, values.device), values.amax(1, keepdim=True) + shift
    ), float(narrow)


@pytest.mark.parametrize("overflow", ["zero_code", "extra_zero"])
def test_after_gelu_as_in_the_authors_code(overflow: str) -> None:
    """One loop after the other: all bases at one scale, the best 8 of them at 16 scales, then ever finer scales."""
    loss, narrow = after_gelu(overflow)

    def error(base: float, scale: float) -> float:
        return loss(torch.tensor([[base]]), torch.tensor([[scale]])).item()

    bases = sorted(BASES, key=lambda base: error(base, 1.0))[:8]
    step = (1 - narrow) / 15
    candidates = [(base, narrow + step * i) for base in bases for i in range(16)]
    for _ in range(5):
        kept = sorted(candidates, key=lambda pair: error(*pair))[:32]
        candidates = [(base, scale + step * (i / 3 - 0.5)) for base, scale in kept for i in range(4)]
        step /= 3.5
    expected = min(candidates, key=lambda pair: error(*pair))

    grid = log_grid(narrow, 1.0, best_bases(loss, 1.0, BASES, 8, CPU), FPCS)
    base, scale, least = progressive_search(loss, grid, FPCS.log_kept, 6)
    assert base.item() == expected[0]
    assert scale.item() == pytest.approx(expected[1], rel=1e-4)
    assert least.item() <= error(*expected) * (1 + 1e-6)


def test_after_gelu_nearly_as_good_as_every_base_at_every_scale() -> None:
    loss, narrow = after_gelu()
    grid = log_grid(narrow, 1.0, best_bases(loss, 1.0, BASES, FPCS.log_bases, CPU), FPCS)
    assert grid.first.shape == (1, 4 * len(BASES))
    found = progressive_search(loss, grid, FPCS.log_kept, FPCS.steps)[2]
    pairs = torch.cartesian_prod(torch.tensor(BASES).float(), torch.linspace(narrow, 1, 64))
    assert found <= 1.02 * loss(pairs[:, :1].t(), pairs[:, 1:].t()).min()


def test_a_search_needs_a_step() -> None:
    grid = base_grid(1.0, BASES, CPU)
    with pytest.raises(ValueError, match="at least one step, got 0"):
        progressive_search(lambda a, _: a, grid, 8, 0)
