"""Closed-form finishing against a slow solution of its least squares, and what it must never do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoq.errors import CalibrationError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.reconstruction.finishing import FinishingSettings, LayerReport, finish
from autoq.scoring.solved_operands import SolvedOperands
from tests.reconstruction.small_model import A6, W2, calibrated, images, sites_of, tiny_model


def _outputs(model: QuantizedModel, operands: SolvedOperands | None, x: Tensor) -> Tensor:
    model.remove_()
    if operands is not None:
        operands.apply_(model)
    with torch.no_grad():
        return model.run(x)[0]


def test_errors_fall() -> None:
    model, data = tiny_model(), images(64)
    before = calibrated(model, sites_of(model, W2, A6), data)
    reports: list[LayerReport] = []
    after = finish(model, before, data, FinishingSettings(ridge=1e-3), batch_size=16, on_layer=reports.append)
    weights = [site for site, operand in before.quantizers if operand == "weight"]
    assert [report.site for report in reports] == weights
    assert all(report.after <= report.before for report in reports)
    full = _outputs(model, None, data)
    errors = [float((_outputs(model, each, data) - full).square().mean()) for each in (before, after)]
    assert errors[1] < 0.5 * errors[0]
    assert after.sites == before.sites


def test_batches_do_not_matter() -> None:
    model, data = tiny_model(), images(24)
    before = calibrated(model, sites_of(model, W2, A6), data)
    whole = finish(model, before, data, batch_size=24)
    parts = finish(model, before, data, batch_size=7)
    same = [float((whole.codes[key] == parts.codes[key]).float().mean()) for key in whole.codes]
    assert min(same) > 0.98, "sums run in another order, and a few codes lie at a border"


def test_the_reported_error_is_that_of_the_output() -> None:
    """A chain of two layers, where the second sees what the first, finished, makes of the images."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU(), nn.Linear(6, 4, bias=False)).eval()
        data = torch.randn(40, 6)
    model = QuantizedModel(trace(module, data[:2]))
    before = calibrated(model, sites_of(model, W2, A6), data)
    reports: dict[str, LayerReport] = {}
    after = finish(model, before, data, on_layer=lambda report: reports.update({report.site: report}))
    first, second = module[0].weight.detach(), module[2].weight.detach()
    full_hidden = torch.relu(data @ first.t())  # (40, 6)

    def value(operands: SolvedOperands, site: str, weight: Tensor) -> Tensor:
        quantizer, codes = operands.quantizers[site, "weight"], operands.codes.get((site, "weight"))
        return quantizer(weight) if codes is None else quantizer.dequantize(codes)

    hidden = torch.relu(after.quantizers["0", "input"](data) @ value(after, "0", first).t())
    given, target = after.quantizers["2", "input"](hidden), full_hidden @ second.t()
    for operands, reported in ((before, reports["2"].before), (after, reports["2"].after)):
        error = (given @ value(operands, "2", second).t() - target).square().sum() / target.square().sum()
        assert reported == pytest.approx(float(error), rel=1e-3)


def test_transposed_convolutions_are_finished() -> None:
    """The reported error is that of the real layer's output, here with overlaps."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        up = nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, bias=False)
        module = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.ReLU(), up).eval()
        data = torch.randn(12, 3, 5, 5)
    model = QuantizedModel(trace(module, data[:2]))
    before = calibrated(model, sites_of(model, W2, A6), data)
    reports: dict[str, LayerReport] = {}
    after = finish(model, before, data, batch_size=5, on_layer=lambda report: reports.update({report.site: report}))
    assert reports["2"].after < 0.9 * reports["2"].before
    key, weight = ("2", "weight"), up.weight.detach()
    with torch.no_grad():
        first = after.quantized_weight(("0", "weight"), module[0].weight)
        hidden = torch.relu(functional.conv2d(after.quantizers["0", "input"](data), first))
        target = module(data)
        given = after.quantizers["2", "input"](hidden)
        for operands, reported in ((before, reports["2"].before), (after, reports["2"].after)):
            output = functional.conv_transpose2d(given, operands.quantized_weight(key, weight), None, 2, 1, 1)
            error = (output - target).square().sum() / target.square().sum()
            assert reported == pytest.approx(float(error), rel=1e-3)


def test_regression_solves_its_normal_equations() -> None:
    """With wide codes rounding does not matter: the weight is that of ridge regression, solved slowly here."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 3, bias=False)).eval()
        data = torch.randn(60, 5)
    model = QuantizedModel(trace(module, data[:2]))
    fine, coarse = W2.model_copy(update={"bits": 12}), A6.model_copy(update={"bits": 2})
    before = calibrated(model, sites_of(model, fine, coarse), data)
    ridge = 0.05
    after = finish(model, before, data, FinishingSettings(ridge=ridge))
    key = ("0", "weight")
    found = after.quantizers[key].dequantize(after.codes[key])
    weight, given = module[0].weight.detach().double(), after.quantizers["0", "input"](data).double()
    gram = given.t() @ given
    penalty = ridge * gram.diagonal().mean() * torch.eye(5, dtype=torch.float64)
    slow = torch.stack(
        [torch.linalg.solve(gram + penalty, given.t() @ (data.double() @ row) + penalty @ row) for row in weight]
    )
    assert (slow - weight).abs().max() > 0.01
    assert (found - slow).abs().max() < 2e-3


def test_what_is_not_quantized_stays() -> None:
    model, data = tiny_model(), images(16)
    sites = {"blocks.0.fc1": {"weight": W2}, "head": {"input": A6}}
    known = {site.name for site in model.traced.sites}
    sites = {site: operands for site, operands in sites.items() if site in known}
    before = calibrated(model, sites, data)
    after = finish(model, before, data)
    assert after.sites == before.sites
    assert set(after.codes) <= {(site, "weight") for site in sites if "weight" in sites[site]}


def test_refusals() -> None:
    model, data = tiny_model(), images(4)
    before = calibrated(model, sites_of(model, W2, A6), data)
    with pytest.raises(CalibrationError, match="no calibration images"):
        finish(model, before, data[:0])
    with pytest.raises(CalibrationError, match="ridge of finishing is 0: it must be positive"):
        FinishingSettings(ridge=0)
    with pytest.raises(CalibrationError, match="has NaN or infinite values"):
        finish(model, before, torch.full_like(data, float("nan")))
