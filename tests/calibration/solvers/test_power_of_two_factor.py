"""Power-of-two factors against brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoq.calibration import OBSERVERS, CalibrationSettings, solve
from autoq.recipe import OperandConfig
from tests.calibration.samples import operand, sample_of, squared_error, uniform_reference, weight_operand

SHAPE = (1, 40, 16)


def factors(bits: int, **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "power_of_two_factor", "bits": bits} | fields)


def draw() -> Tensor:
    """Channels of very different widths and means, as LayerNorm inputs have."""
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(4, *SHAPE[1:], generator=generator)
    return normal * torch.logspace(-1.5, 0.7, SHAPE[2]) + torch.randn(SHAPE[2], generator=generator) * 0.1


def of_range(lower: float, upper: float, bits: int, values: Tensor) -> tuple[list[int], float]:
    """The published choice: for each channel the factor of least squared error, and the sum of these."""
    greatest = 2**bits - 1
    scale8 = (upper - lower) / greatest
    zero_point = min(max(round(-lower / scale8), 0), greatest)
    exponents, total = [], 0.0
    for channel in range(values.shape[-1]):
        x = values[..., channel].flatten()
        errors = [uniform_reference(x, scale8 / 8 * 2**alpha, zero_point, bits) for alpha in range(4)]
        exponents.append(errors.index(min(errors)))
        total += min(errors)
    return exponents, total


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_factors_at_the_observed_range_are_the_published_ones(bits: int) -> None:
    values = draw()
    solved = solve(operand(SHAPE), factors(bits), sample_of(operand(SHAPE), values), CalibrationSettings("min_max"))
    qparams = solved.qparams()
    expected, error = of_range(float(values.min()), float(values.max()), bits, values)
    assert qparams["exponent"].shape == (1, 1, SHAPE[2])
    assert qparams["exponent"].flatten().tolist() == expected
    assert len(set(expected)) > 1
    scale8 = float(values.max() - values.min()) / (2**bits - 1)
    assert float(qparams["scale"]) == pytest.approx(scale8 / 8)
    assert squared_error(solved, sample_of(operand(SHAPE), values)) == pytest.approx(error, rel=1e-4)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_search_of_the_range_is_as_good_as_brute_force(bits: int) -> None:
    values, sample = draw(), sample_of(operand(SHAPE), draw())
    found = squared_error(solve(operand(SHAPE), factors(bits), sample, CalibrationSettings()), sample)
    low, high = float(values.min()), float(values.max())
    brute = min(of_range(low * 0.93**step, high * 0.93**step, bits, values)[1] for step in range(26))
    assert found <= 1.05 * brute


@pytest.mark.parametrize("bits", [4, 6])
def test_factors_are_better_than_one_range(bits: int) -> None:
    sample = sample_of(operand(SHAPE), draw())
    for observer in ("min_max", "mse"):
        settings = CalibrationSettings(observer)  # type: ignore[arg-type]
        found = squared_error(solve(operand(SHAPE), factors(bits), sample, settings), sample)
        uniform = solve(operand(SHAPE), OperandConfig(scheme="uniform", bits=bits), sample, settings)
        assert found < squared_error(uniform, sample)


@pytest.mark.parametrize("granularity", ["channel", "group"])
def test_granularity_is_not_read(granularity: str) -> None:
    sample = sample_of(operand(SHAPE), draw())
    one, other = (
        solve(operand(SHAPE), option, sample, CalibrationSettings()).qparams()
        for option in (factors(4), factors(4, granularity=granularity, groups=4))
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("value", [0.0, 2.5, -1.0])
def test_constant_operands_are_solved(observer: str, value: float) -> None:
    sample = sample_of(operand(SHAPE), torch.full((2, *SHAPE[1:]), value))
    solved = solve(operand(SHAPE), factors(3), sample, CalibrationSettings(observer))  # type: ignore[arg-type]
    torch.testing.assert_close(solved(sample.values), sample.values, rtol=0.01, atol=1e-6)


def test_an_observer_of_their_own() -> None:
    """As published, ranges with factors keep their least and greatest value, whatever observes other activations."""
    values = draw()
    settings = CalibrationSettings("percentile", percentile=90.0, factor_observer="min_max")
    found = solve(operand(SHAPE), factors(4), sample_of(operand(SHAPE), values), settings).qparams()
    expected = solve(operand(SHAPE), factors(4), sample_of(operand(SHAPE), values), CalibrationSettings("min_max"))
    for name, value in expected.qparams().items():
        assert torch.equal(found[name], value)


def test_weights_have_an_observer_of_their_own() -> None:
    option = OperandConfig(scheme="uniform", bits=4, granularity="channel")
    weight = draw().flatten(0, 1)
    settings = CalibrationSettings("omse", weight_observer="min_max")
    found = solve(weight_operand(tuple(weight.shape)), option, weight, settings).qparams()["scale"]
    plain = solve(weight_operand(tuple(weight.shape)), option, weight, CalibrationSettings("min_max")).qparams()[
        "scale"
    ]
    shrunk = solve(weight_operand(tuple(weight.shape)), option, weight, CalibrationSettings("omse")).qparams()["scale"]
    assert torch.equal(found, plain)
    assert not torch.equal(found, shrunk)
