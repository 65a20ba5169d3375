"""Ranges, factors and searches on the channels that tell implementations apart, against slow references.

The references are loops in double precision, written from the papers: FQ-ViT's observers and factors, RepQ-ViT's
percentiles, AdaLog's logarithm and its progressive search.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from autoq.calibration import CalibrationSettings, solve
from autoq.calibration.fpcs.layer_error import QuadraticError, affine_loss
from autoq.calibration.fpcs.search import affine_grid, progressive_search
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.transforms.reparameterization import choose_factors
from autoq.quantizers._affine import choose_affine_qparams
from autoq.recipe import OperandConfig
from tests.calibration.samples import operand, sample_of

COUNT = 200


def hard_channels() -> dict[str, Tensor]:
    """A channel a case; what is looked for in each is in its name."""
    generator = torch.Generator().manual_seed(0)
    normal, uniform = torch.randn(COUNT, generator=generator), torch.rand(COUNT, generator=generator)
    position = torch.arange(COUNT)
    return {
        "normal": normal,
        "ties": (normal * 3).round() + 0.5,
        "exact ones": torch.where(uniform < 0.5, torch.ones(COUNT), uniform),
        "zeros": torch.zeros(COUNT),
        "subnormal": normal * 1e-40,
        "above zero": 3 + uniform,
        "below zero": -2 - uniform,
        "constant minimum": normal.clamp(min=-0.17),
        "one huge outlier": torch.where(position == 7, torch.full((COUNT,), 5e4), normal),
        "constant": torch.full((COUNT,), 1.25),
    }


CASES = list(hard_channels())
BITS = [3, 4, 8]


def affine(low: float, high: float, bits: int, include_zero: bool) -> tuple[float, float]:
    """Scale and zero point of a range; a range of nothing has one that holds its value."""
    if include_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    return scale, (round(-low / scale) if scale else 0.0)


def error_of(values: Tensor, scale: float, zero_point: float, bits: int) -> float:
    """Squared error, of the nearest code, value by value."""
    total = 0.0
    for x in values.double().tolist():
        code = min(max(round(x / scale) + zero_point, 0), 2**bits - 1)
        total += ((code - zero_point) * scale - x) ** 2
    return total


def found_error(values: Tensor, settings: CalibrationSettings, bits: int) -> float:
    described, sample = operand((1, COUNT, 1)), sample_of(operand((1, COUNT, 1)), values.view(1, COUNT, 1))
    quantizer = solve(described, OperandConfig(scheme="uniform", bits=bits), sample, settings)
    return float((quantizer(sample.values).double() - sample.values.double()).square().sum())


def ranges(observer: str, values: Tensor) -> list[tuple[float, float]]:
    low, high = float(values.min()), float(values.max())
    if observer == "min_max":
        return [(low, high)]
    if observer == "omse":
        return [((1 - i / 100) * low, (1 - i / 100) * high) for i in range(90)]
    double = values.double()
    return [
        (float(torch.quantile(double, 1 - share)), float(torch.quantile(double, share)))
        for share in (0.999, 0.9999, 0.99999)
    ]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("observer", ["min_max", "omse", "best_percentile"])
@pytest.mark.parametrize("include_zero", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_ranges(case: str, include_zero: bool, observer: str, bits: int) -> None:
    values = hard_channels()[case]
    settings = CalibrationSettings(observer=observer, include_zero=include_zero)
    tried = [affine(low, high, bits, include_zero) for low, high in ranges(observer, values)]
    usable = [pair for pair in tried if pair[0] > torch.finfo(torch.float32).tiny]
    found = found_error(values, settings, bits)
    if not usable:  # nothing to spread codes over: zeros, subnormal values and constants stay what they are
        assert found <= 1e-6 * float(values.double().square().sum()) + 1e-70
        return
    expected = min(error_of(values, *pair, bits) for pair in usable)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("include_zero", [True, False])
def test_channel_factors(include_zero: bool) -> None:
    """RepQ-ViT (section 3.2): s and z of each channel, their means, r1 = s / s̃ and r2 = z − z̃."""
    channels, bits = hard_channels(), 4
    names = [name for name in CASES if name not in ("zeros", "subnormal", "constant")]
    low, high = (torch.stack([getattr(channels[name], way)() for name in names]) for way in ("min", "max"))
    factors = choose_factors(*choose_affine_qparams(low, high, bits, include_zero=include_zero))
    pairs = [affine(float(one), float(other), bits, include_zero) for one, other in zip(low, high, strict=True)]
    scale = sum(pair[0] for pair in pairs) / len(pairs)
    zero_point = round(sum(pair[1] for pair in pairs) / len(pairs))
    assert float(factors.scale) == pytest.approx(scale, rel=1e-5)
    assert float(factors.zero_point) == zero_point
    for index, (own, zero) in enumerate(pairs):
        assert float(factors.ratio[index]) == pytest.approx(own / scale, rel=1e-5)
        assert float(factors.offset[index]) == pytest.approx(own * (zero - zero_point), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("bits", BITS)
def test_power_of_two_factors(bits: int) -> None:
    """FQ-ViT (section 3.3): one scale for all channels, each with the best of four factors; the first of equals."""
    channels = {name: values for name, values in hard_channels().items() if name != "one huge outlier"}
    values = torch.stack(list(channels.values()), 1).unsqueeze(0)
    described = operand((1, COUNT, len(channels)))
    config = OperandConfig(scheme="power_of_two_factor", bits=bits)
    solved = solve(described, config, sample_of(described, values), CalibrationSettings(observer="min_max"))
    scale, zero_point = affine(float(values.min()), float(values.max()), bits, True)
    assert float(solved.qparams()["scale"]) == pytest.approx(scale / 8)
    for channel, exponent in zip(channels.values(), solved.qparams()["exponent"].flatten().tolist(), strict=True):
        errors = [error_of(channel, scale / 8 * 2**alpha, zero_point, bits) for alpha in range(4)]
        assert errors[int(exponent)] == pytest.approx(min(errors), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("overflow", ["zero_code", "extra_zero"])
def test_logarithms_after_softmax(bits: int, overflow: str) -> None:
    """AdaLog (section 3.2) at scale one: exact ones, zeros, subnormal and tiny probabilities, ties; the best base."""
    generator = torch.Generator().manual_seed(1)
    logits = 6 * torch.randn(8, 16, generator=generator)
    values = logits.softmax(-1)
    values[0], values[1] = 0.0, 0.0
    values[0, 3], values[1, 2], values[1, 3], values[1, 4] = 1.0, 0.5, 2**-0.5, 1e-40
    described = operand((1, 8, 16), "softmax")
    config = OperandConfig.model_validate({"scheme": "adalog", "bits": bits, "overflow": overflow})
    solved = solve(described, config, sample_of(described, values.unsqueeze(0)), CalibrationSettings())
    found = float((solved(values.unsqueeze(0)).double() - values.double()).square().sum())
    levels, steps = 2**bits - (overflow == "zero_code"), 2 ** (bits + 1) - 2

    def error(numerator: int) -> float:
        total = 0.0
        for x in values.flatten().double().tolist():
            code = round(-math.log2(x) * 37 / numerator) if x > 1e-38 else levels
            table = round(2.0 ** (-((numerator * code) % 37) / 37) * steps) / steps if code < levels else 0.0
            total += (2.0 ** -(numerator * code // 37) * table - x) ** 2
        return total

    errors = {numerator: error(numerator) for numerator in range(10, 138)}
    # Looked up in histograms, whose bins are narrow beside levels.
    assert found <= 1.02 * min(errors.values())
    assert found == pytest.approx(errors[int(solved.qparams()["log_base_numerator"])], rel=1e-4)


def spans(values: list[float], quantile: float) -> tuple[float, float, float, float]:
    ordered = sorted(values)
    rank = math.ceil(quantile * len(ordered))
    return ordered[len(ordered) - rank], ordered[rank - 1], ordered[0], ordered[-1]


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("case", [name for name in CASES if name not in ("zeros", "subnormal", "constant")])
def test_progressive_search(case: str, bits: int) -> None:
    """AdaLog (section 3.3), 128 candidates, 16 kept, 6 steps, the best of the last: as loops over lists."""
    values = hard_channels()[case].double().tolist()
    settings = FpcsSettings(steps=6, result="last_step")

    def loss(scale: float, zero_point: int) -> float:
        steps = ((min(max(round(x / scale), -zero_point), 2**bits - 1 - zero_point) * scale - x) ** 2 for x in values)
        return sum(steps)

    low, high, least, most = spans(values, settings.quantile)
    narrow, wide = ((b - a) / (2**bits - 1) for a, b in ((low, high), (least, most)))
    zero_points = range(2**bits) if bits <= 4 else range(0)
    count = 128 // len(zero_points)
    step = (wide - narrow) / (count - 1)
    candidates = [(narrow + i * step, z) for i in range(count) for z in zero_points]
    for level in range(6):
        candidates.sort(key=lambda pair: loss(*pair))
        if level < 5:
            around = step / 7.5**level
            candidates = [(s + around * (i / 7 - 0.5), z) for s, z in candidates[:16] for i in range(8)]
            candidates = [(max(s, 1e-30), z) for s, z in candidates]
    expected = loss(*candidates[0])
    row = torch.tensor([values])
    grid = affine_grid(
        (torch.tensor([low]), torch.tensor([least])),
        (torch.tensor([high]), torch.tensor([most])),
        bits,
        settings,
        symmetric=False,
        include_zero=False,
        all_zero_points=True,
    )
    error = QuadraticError(row[:, None, None, :].float())
    scale, zero_point, _ = progressive_search(affine_loss(error, bits), grid, 16, 6, of_last_step=True)
    assert loss(float(scale), int(zero_point)) == pytest.approx(expected, rel=0.02)
