"""Weights of outputs' squared errors, against the Fisher information by a derivative for each class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration.fpcs.output_weights import PROBES, OutputWeights
from autoq.errors import CalibrationError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.tasks import CLASSIFICATION

CLASSES = 10


class Classifier(nn.Module):
    """Attention, a layer on which nothing depends but by zeros, and logits of one position."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.qkv, self.idle, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        for layer in (self.qkv, self.idle, self.head):
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) / 2
            layer.bias.data = torch.randn(layer.bias.shape, generator=generator)
        self.outputs: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        qkv = self._kept("qkv", self.qkv(x))
        q, k, v = qkv.reshape(x.shape[0], 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = self._kept("av", self._kept("qk", q @ k.transpose(-2, -1)).softmax(-1) @ v)
        x = x + mixed.transpose(1, 2).flatten(2)
        return self._kept("head", self.head((x + 0 * self.idle(x))[:, 0]))

    def _kept(self, name: str, output: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            self.outputs[name] = output
        return output


def images(count: int) -> Tensor:
    return torch.randn(count, 6, 8, generator=torch.Generator().manual_seed(1))


def weights_of(model: QuantizedModel, data: Tensor, batch_size: int, sites: list[str]) -> dict[str, Tensor]:
    weighting = OutputWeights(model, torch.split(data, batch_size), CLASSIFICATION, 0)
    found: dict[str, Tensor] = {}
    for index in reversed(range(len(model.stages))):
        found |= weighting.of_stage(index, [name for name in model.stages[index].sites if name in sites])
    return found


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_is_the_expected_squared_gradient_of_the_loss(batch_size: int) -> None:
    """Σ_c p_c (∂ log p_c / ∂O)², exactly for so few classes; relative to its mean."""
    assert CLASSES <= PROBES
    module, data = Classifier().eval().double(), images(5).double()
    model = QuantizedModel(trace(module.float(), data[:2].float()))
    (qk, av) = (site.name for site in model.traced.sites if site.op == "matmul")
    sites = {"qkv": "qkv", "qk": qk, "av": av, "head": "head"}
    with torch.inference_mode():  # as a session may
        found = weights_of(model, data.float(), batch_size, list(sites.values()))
    module.double()
    log_p = module(data).log_softmax(-1)
    for name, site in sites.items():
        gradients = [
            torch.autograd.grad(log_p[:, c].sum(), module.outputs[name], retain_graph=True)[0] for c in range(CLASSES)
        ]
        shape = (-1, *[1] * (gradients[0].ndim - 1))
        p = log_p.exp().detach()
        expected = torch.stack([p[:, c].view(shape) * g.square() for c, g in enumerate(gradients)]).sum(0)
        expected /= expected.mean()
        torch.testing.assert_close(found[site].double(), expected, rtol=1e-3, atol=1e-4)
        assert found[site].mean().item() == pytest.approx(1, rel=1e-5)


def test_nothing_is_weighted_where_all_errors_cost_nothing() -> None:
    model = QuantizedModel(trace(Classifier().eval(), images(2)))
    assert weights_of(model, images(3), 2, ["idle", "head"]).keys() == {"head"}


def test_derivatives_that_are_not_finite_are_refused() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)
            self.layer.weight.data = torch.eye(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).sqrt()  # type: ignore[no-any-return]

    model = QuantizedModel(trace(Root().eval(), torch.ones(2, 4)))
    data = torch.ones(2, 4)
    data[1, 2] = 0
    with pytest.raises(CalibrationError, match="derivatives at 'layer' have NaN or infinite values"):
        weights_of(model, data, 2, ["layer"])
