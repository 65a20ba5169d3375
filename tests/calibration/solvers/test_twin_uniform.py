"""Twin uniform scales and shifts against brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoq.calibration import OBSERVERS, CalibrationSettings, solve
from autoq.calibration.solvers.twin_uniform import MOST_BITS, _SortedSums, search_twin, twin_levels
from autoq.quantizers import OperandLayout, TwinUniformQuantizer, TwinUniformSumQuantizer
from autoq.recipe import OperandConfig
from tests.calibration.samples import operand, sample_of, squared_error
from tests.quantizers.samples import tensors

SETTINGS = CalibrationSettings()
SHAPE = (1, 32, 24)
ROWS = OperandLayout(ndim=2, channel_axis=-2)


def twin(bits: int, **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "twin_uniform", "bits": bits} | fields)


def error_of_sum(values: Tensor, bits: int, scale: float, shift_bits: int, fine_sign: int) -> float:
    """Squared error by the formula of PTQ4ViT's code, in float64."""
    x, codes = values.flatten().double(), 2 ** (bits - 1)
    fine = scale / 2**shift_bits
    low = high = x
    least, most = -codes, 0
    if fine_sign > 0:
        low, high = x.clamp(max=(codes - 1) * fine), x.clamp(min=(codes - 1) * fine)
        least, most = 0, codes - 1
    rounded = (high / scale).round().clamp(0, codes - 1) * scale + (low / fine).round().clamp(least, most) * fine
    return float((rounded - x).square().sum())


def draw(producer: str) -> Tensor:
    normal = torch.randn(4, *SHAPE[1:], generator=torch.Generator().manual_seed(3))
    return (4 * normal).softmax(-1) if producer == "softmax" else torch.nn.functional.gelu(2 * normal)


def error_of(values: Tensor, bits: int, scale: float, shift_bits: int, fine_sign: int) -> float:
    """Squared error of the quantizer that PTQ4ViT's formula defines, in float64."""
    x = values.flatten().double()
    if bits == 1:
        return float(((x / scale).round().clamp(0, 1) * scale - x).square().sum())
    half = 2 ** (bits - 1)
    fine = scale / 2**shift_bits
    is_fine = x < half * fine if fine_sign > 0 else x < 0
    in_fine = (fine_sign * x / fine).round().clamp(0, half - 1) * fine * fine_sign
    return float((torch.where(is_fine, in_fine, (x / scale).round().clamp(0, half - 1) * scale) - x).square().sum())


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    x=tensors(),
    bits=st.integers(1, 6),
    shift_bits=st.integers(0, 9),
    fine_sign=st.sampled_from([1, -1]),
    relative=st.sampled_from([0.01, 0.2, 1.0]),
)
def test_looked_up_errors_are_those_of_the_quantizer(
    x: Tensor, bits: int, shift_bits: int, fine_sign: int, relative: float
) -> None:
    x = x.clamp(-1e18, 1e18)
    scale = max(float(x.abs().max()) * relative, 1e-30)
    sums = _SortedSums(x.unsqueeze(0))
    least, _ = sums.best(torch.tensor([[scale]], dtype=torch.float64), *twin_levels(bits, shift_bits, fine_sign))
    exact = error_of(x, bits, scale, shift_bits, fine_sign)
    assert float(least) == pytest.approx(exact, rel=1e-6, abs=1e-9 * float(x.double().square().sum()))
    if bits > 1:
        tables = twin_levels(bits, shift_bits, fine_sign, ranges_add=True)
        scale *= 1.0123457  # at a tie, where x is not midway between two levels, the error jumps
        least, _ = sums.best(torch.tensor([[scale]], dtype=torch.float64), *tables)
        exact = error_of_sum(x, bits, scale, shift_bits, fine_sign)
        assert float(least) == pytest.approx(exact, rel=1e-6, abs=1e-9 * float(x.double().square().sum()))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("producer", ["softmax", "gelu"])
def test_search_is_as_good_as_brute_force(producer: str, bits: int) -> None:
    values = draw(producer)
    sample, fine_sign = sample_of(operand(SHAPE), values), 1 if producer == "softmax" else -1
    found = solve(operand(SHAPE, producer), twin(bits), sample, SETTINGS)  # type: ignore[arg-type]
    assert found.qparams()["fine_sign"].item() == fine_sign
    reach = float(values.abs().max()) / max(2 ** (bits - 1) - 1, 1)
    brute = min(
        error_of(values, bits, reach * 0.97**step, shift_bits, fine_sign)
        for step in range(80)
        for shift_bits in range(12)
    )
    assert squared_error(found, sample) <= 1.03 * brute + 1e-12


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("producer", ["softmax", "gelu"])
def test_search_of_sums_is_as_good_as_brute_force(producer: str, bits: int) -> None:
    values = draw(producer)
    sample, fine_sign = sample_of(operand(SHAPE), values), 1 if producer == "softmax" else -1
    config = twin(bits).model_copy(update={"scheme": "twin_uniform_sum"})
    found = solve(operand(SHAPE, producer), config, sample, SETTINGS)  # type: ignore[arg-type]
    assert isinstance(found, TwinUniformSumQuantizer)
    reach = float(values.abs().max()) / (2 ** (bits - 1) - 1)
    brute = min(
        error_of_sum(values, bits, reach * 0.97**step, shift_bits, fine_sign)
        for step in range(80)
        for shift_bits in range(12)
    )
    assert squared_error(found, sample) <= 1.03 * brute + 1e-12


@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("producer", ["softmax", "gelu"])
def test_beats_the_range(producer: str, bits: int) -> None:
    described = operand(SHAPE, producer)  # type: ignore[arg-type]
    sample = sample_of(described, draw(producer))
    found = squared_error(solve(described, twin(bits), sample, SETTINGS), sample)
    by_range = solve(described, twin(bits), sample, CalibrationSettings(observer="min_max"))
    assert found < squared_error(by_range, sample)


def test_rows_have_scales_of_their_own_and_one_shift() -> None:
    described = operand((1, 3, 20, 8), "gelu", heads=True)
    gains = torch.tensor([0.1, 1.0, 8.0])[:, None, None]
    values = torch.randn(4, 3, 20, 8, generator=torch.Generator().manual_seed(5)) * gains
    solved = solve(described, twin(4, granularity="head"), sample_of(described, values), SETTINGS).qparams()
    assert solved["scale"].shape == (1, 3, 1, 1)
    assert solved["shift_bits"].numel() == 1
    ratio = solved["scale"].flatten() / gains.flatten()
    assert float(ratio.max() / ratio.min()) < 1.5


def test_min_max_is_the_range() -> None:
    sample = sample_of(operand(SHAPE), draw("gelu"))
    solved = solve(operand(SHAPE, "gelu"), twin(4), sample, CalibrationSettings(observer="min_max"))
    lower, upper = (bound.reshape(1, 1, 1) for bound in (sample.values.min(), sample.values.max()))
    expected = TwinUniformQuantizer.from_range(twin(4), operand(SHAPE).layout, lower, upper)
    for name, value in expected.qparams().items():
        assert torch.equal(solved.qparams()[name], value)


@pytest.mark.parametrize("observer", OBSERVERS)
@pytest.mark.parametrize("value", [0.0, 2.5, -1.0])
@pytest.mark.parametrize("bits", [1, 3, MOST_BITS + 1])
def test_constant_operands_are_solved(observer: str, value: float, bits: int) -> None:
    sample = sample_of(operand(SHAPE), torch.full((2, *SHAPE[1:]), value))
    solved = solve(operand(SHAPE), twin(bits), sample, CalibrationSettings(observer=observer))  # type: ignore[arg-type]
    y = solved(sample.values)
    assert y.isfinite().all()
    if value >= 0 or bits > 1:
        torch.testing.assert_close(y, sample.values, rtol=0.01, atol=1e-6)


def test_search_takes_any_finite_values() -> None:
    for factor in (1e-40, 1e-20, 1e18):
        values = torch.randn(2, 50, generator=torch.Generator().manual_seed(0)) * factor
        scale, shift_bits = search_twin(values, 4, -1)
        quantizer = TwinUniformQuantizer.with_scale(
            twin(4, granularity="channel"), ROWS, scale.unsqueeze(1), shift_bits, -1
        )
        assert quantizer(values).isfinite().all()
