"""ONNX models of single sites."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoq.exporters.site_models import SiteModel
from autoq.graph.trace import TracedModel, trace

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


class Several(nn.Module):
    """Convolutions, strided in groups, padded and transposed in groups, a linear layer, a product and an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.same = nn.Conv2d(8, 8, 3, padding="same", dilation=2)
        self.transposed = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.linear = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.grouped(x))
        finer = self.transposed(x)  # (N, 4, 8, 8)
        x = x.flatten(2).transpose(1, 2)  # (N, 16, 8)
        y = x @ x.transpose(1, 2)
        return self.linear(torch.einsum("nij,njc->nic", y, x)).mean(1) + finer.mean((1, 2, 3)).unsqueeze(1)


@pytest.fixture(scope="module")
def traced() -> TracedModel:
    return trace(Several().eval(), torch.randn(2, 4, 8, 8))


def outputs(model: SiteModel, weight_bits: int | None) -> torch.Size:
    made = model.make(weight_bits)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    given = {name: value.numpy() for name, value in zip(names, model.inputs, strict=True)}
    return torch.from_numpy(session.run(None, given)[0]).shape


SHAPES = {
    "grouped": (3, 8, 4, 4),
    "same": (3, 8, 4, 4),
    "transposed": (3, 4, 8, 8),
    "matmul": (3, 16, 16),
    "einsum": (3, 16, 8),
    "linear": (3, 16, 6),
}


def test_every_kind_of_site_runs_in_floating_point_and_in_integers(traced: TracedModel) -> None:
    found = {site.name: SiteModel.of(traced, site, 3) for site in traced.sites if site.macs}
    assert set(found) == set(SHAPES)
    for name, model in found.items():
        assert outputs(model, None) == SHAPES[name]
        for bits in (7, 8):
            assert outputs(model, bits) == SHAPES[name]


def test_weights_are_stored_as_exports_have_them(traced: TracedModel) -> None:
    model = SiteModel.of(traced, traced.sites_by_name["linear"], 1)
    kinds = {}
    for bits in (7, 8):
        initializers = {each.name: each for each in model.make(bits).graph.initializer}
        kinds[bits] = onnx.numpy_helper.to_array(initializers["weight.code"]).dtype.name
        assert list(initializers["weight.scale"].dims) == [6]
        assert list(initializers["input.scale"].dims) == []
    assert kinds == {7: "int8", 8: "uint8"}


def test_sites_of_one_shape_are_one_model(traced: TracedModel) -> None:
    twice = trace(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)).eval(), torch.randn(2, 4))
    for model, count in ((twice, 1), (traced, len(SHAPES))):
        assert len({SiteModel.of(model, site, 2) for site in model.sites if site.macs}) == count
