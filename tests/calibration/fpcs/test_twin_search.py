"""Twin ranges by the layer's output, against every combination."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autoq.calibration import CalibrationSettings
from autoq.calibration.fpcs.output_search import solve_site
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.recording import OperandRecorder, OperandSample
from autoq.calibration.solvers import solve
from autoq.graph.sites import Site
from autoq.quantizers import TwinUniformQuantizer
from autoq.recipe import OperandConfig
from tests.graph.small import traced

TWIN = OperandConfig(scheme="twin_uniform", bits=4)
SETTINGS = CalibrationSettings(observer="fpcs")
PUBLISHED = replace(
    SETTINGS, fpcs=FpcsSettings(twin_scales="published", candidates=100, steps=1, spans=(0.01, 1.2), screening=0)
)


class Mlp(torch.nn.Module):
    """GELU before a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(24, 7)
        self.fc.weight.data = torch.randn(7, 24, generator=torch.Generator().manual_seed(0)) * torch.linspace(
            0.1, 3, 24
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(torch.nn.functional.gelu(x))
        return result


class Attention(torch.nn.Module):
    """A product with a softmax."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x.softmax(-1), x.mT)


def inputs(*shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def after_gelu() -> tuple[Site, dict[str, Tensor]]:
    module = Mlp()
    found = traced(module, inputs(2, 24))
    values = torch.nn.functional.gelu(inputs(60, 24))
    return found.sites_by_name["fc"], {"input": values, "weight": module.fc.weight.detach()}


def after_softmax() -> tuple[Site, dict[str, Tensor]]:
    x = inputs(3, 2, 9, 9)
    found = traced(Attention(), x)
    (site,) = (site for site in found.sites if site.macs)
    return site, {"lhs": (3 * x).softmax(-1), "rhs": x.mT}


@torch.no_grad()
def output_error(site: Site, operands: dict[str, Tensor], name: str, quantizer: torch.nn.Module) -> float:
    changed = operands | {name: quantizer(operands[name])}
    if site.op == "linear":
        outputs = [each["input"] @ each["weight"].T for each in (operands, changed)]
    else:
        outputs = [each["lhs"] @ each["rhs"] for each in (operands, changed)]
    return (outputs[0] - outputs[1]).double().square().sum().item()


@pytest.mark.parametrize("case", [after_gelu, after_softmax])
def test_nearly_as_good_as_every_distance_at_every_scale(case: Callable[[], tuple[Site, dict[str, Tensor]]]) -> None:
    site, operands = case()
    name = next(iter(operands))
    solved = solve_site(site, {name: TWIN}, operands, SETTINGS)[name]
    found = output_error(site, operands, name, solved)
    widest = operands[name].max() / 7
    fine_sign = int(solved.qparams()["fine_sign"])
    layout = site.operand(name).layout
    shape = solved.qparams()["scale"].shape
    best = min(
        output_error(
            site,
            operands,
            name,
            TwinUniformQuantizer.with_scale(
                TWIN, layout, (widest * share).expand(shape).clone(), shift_bits, fine_sign
            ),
        )
        for shift_bits in range(10)
        for share in torch.linspace(0.2, 1, 80)
    )
    assert found <= 1.02 * best
    own = solve(site.operand(name), TWIN, sample_of(site, name, operands[name]), replace(SETTINGS, observer="mse"))
    assert found <= output_error(site, operands, name, own)


def sample_of(site: Site, name: str, values: Tensor) -> OperandSample:
    recorder = OperandRecorder(site.operand(name), SETTINGS, name)
    recorder(values)
    return recorder.sample()


@pytest.mark.parametrize("case", [after_gelu, after_softmax])
def test_sums_of_both_ranges_as_published(case: Callable[[], tuple[Site, dict[str, Tensor]]]) -> None:
    """By the formula of the authors' code, written out for each of its candidates."""
    site, operands = case()
    name, config = next(iter(operands)), OperandConfig(scheme="twin_uniform_sum", bits=4)
    qparams = solve_site(site, {name: config}, operands, PUBLISHED)[name].qparams()
    x = operands[name].double()
    if name == "lhs":

        def quantized(split: Tensor) -> Tensor:
            high = (x.clamp(split, 1) * 7).round().clamp(0, 7) / 7
            return high + (x.clamp(0, split) / (split / 7)).round().clamp(0, 7) * (split / 7)

        candidates = [torch.tensor(2.0**-power) for power in range(20)]
        found = 2 ** -qparams["shift_bits"].double()
    else:
        fine = 0.16997124254703522 / 8

        def quantized(step: Tensor) -> Tensor:
            return (x / step).round().clamp(0, 7) * step + (x / fine).round().clamp(-8, 0) * fine

        candidates = [step for i in range(100) if (step := (0.01 + 1.19 * i / 99) * x.max() / 7.5) >= fine]
        found = qparams["scale"].flatten().double()
    other = next(operands[key].double() for key in operands if key != name)
    other = other if name == "lhs" else other.T
    errors = [float(((quantized(each) - x) @ other).square().sum()) for each in candidates]
    best = candidates[min(range(len(errors)), key=errors.__getitem__)]
    torch.testing.assert_close(found.view(1), best.double().view(1), rtol=1e-5, atol=0)


def test_published_scales() -> None:
    """After softmax the coarse range reaches 1; after GELU the fine step is 0.16997 / 8 at 4 bits, the coarse any."""
    site, operands = after_softmax()
    qparams = solve_site(site, {"lhs": TWIN}, operands, PUBLISHED)["lhs"].qparams()
    torch.testing.assert_close(qparams["scale"].flatten(), torch.tensor([1 / 7]))
    errors = {
        shift: output_error(
            site,
            operands,
            "lhs",
            TwinUniformQuantizer.with_scale(TWIN, site.operand("lhs").layout, qparams["scale"], shift, 1),
        )
        for shift in range(20)
    }
    assert int(qparams["shift_bits"]) == min(errors, key=lambda shift: errors[shift])
    coarse_values = {"lhs": TWIN, "rhs": OperandConfig(scheme="uniform", bits=1)}
    both = solve_site(site, coarse_values, operands, PUBLISHED)["lhs"].qparams()
    assert both["shift_bits"] == qparams["shift_bits"], "compared with the other operand in full precision"
    searched = replace(PUBLISHED, fpcs=replace(PUBLISHED.fpcs, twin_scales="searched"))
    both, alone = (
        solve_site(site, each, operands, searched)["lhs"].qparams() for each in (coarse_values, {"lhs": TWIN})
    )
    assert (both["shift_bits"], both["scale"]) != (alone["shift_bits"], alone["scale"])
    site, operands = after_gelu()
    qparams = solve_site(site, {"input": TWIN}, operands, PUBLISHED)["input"].qparams()
    fine = 0.16997124254703522 / 8
    torch.testing.assert_close(qparams["scale"].flatten() / 2 ** qparams["shift_bits"], torch.tensor([fine]))
    values, weight = (operands[name].double() for name in ("input", "weight"))
    coarse = [(0.01 + 1.19 * i / 99) * values.max() / 7.5 for i in range(100)]

    def error(step: Tensor) -> float:
        quantized = (values / step).round().clamp(0, 7) * step + (values / fine).round().clamp(-7, 0) * fine
        return float(((quantized - values) @ weight.T).square().sum())

    best = min((step for step in coarse if step >= fine), key=error)
    torch.testing.assert_close(qparams["scale"].flatten().double(), best.view(1), rtol=1e-5, atol=0)
    assert float(qparams["shift_bits"]) % 1 != 0
