"""Gram matrices of layers' inputs, captured in one pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoq.calibration.second_order import gram as module
from autoq.calibration.second_order.gram import LayerInput, capture_grams, gram_groups
from autoq.errors import CalibrationError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from tests.calibration.samples import block_model, images
from tests.exporters.upsampling import IMAGES, upsampling


class Layers(nn.Module):
    """Convolutions of every kind, two linear layers with one input, and a product with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.same = nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
        self.grouped = nn.Conv2d(6, 6, 3, groups=2)
        self.first = nn.Linear(8, 5)
        self.second = nn.Linear(8, 7, bias=False)
        self.matrix = nn.Parameter(torch.randn(12, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.adaptive_avg_pool2d(self.grouped(self.conv(x)), (3, 8)).flatten(1, 2)  # (N, 18, 8)
        both = torch.cat([self.first(y), self.second(y)], -1)
        return both @ self.matrix + self.same(x).mean((1, 2, 3))[:, None, None]


@pytest.fixture(scope="module")
def layers() -> QuantizedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return QuantizedModel(trace(Layers().eval(), pictures(2)))


def pictures(count: int) -> Tensor:
    return torch.randn(count, 3, 12, 9, generator=torch.Generator().manual_seed(1))


def inputs_of(model: QuantizedModel, x: Tensor, site: str) -> Tensor:
    class Keep(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            kept.append(value)
            return value

    kept: list[Tensor] = []
    model.remove_()
    model.insert_({(site, "input"): Keep()})
    with torch.no_grad():
        model.run(x)
    model.remove_()
    return kept[0].double()


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_linear_layers_have_the_sum_over_all_tokens(batch: int) -> None:
    model, x = block_model(), images(7)
    sites = ["qkv", "fc1", "fc2"]
    grams = capture_grams(model, x.split(batch), sites)
    assert list(grams) == sites
    for site, gram in grams.items():
        tokens = inputs_of(model, x, site).flatten(0, 1)
        assert gram.dtype == torch.float32
        torch.testing.assert_close(gram.double(), tokens.T @ tokens, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_convolutions_are_unfolded(layers: QuantizedModel, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(module, "_ELEMENTS_AT_ONCE", at_once)
    x = pictures(5)
    gram = capture_grams(layers, x.split(2), ["conv"])["conv"]
    conv = {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)}
    vectors = functional.unfold(x.double(), **conv).transpose(1, 2).flatten(0, 1)  # (positions, channels · kernel)
    torch.testing.assert_close(gram.double(), vectors.T @ vectors, rtol=1e-5, atol=1e-4)


def test_the_gram_matrix_measures_the_error_of_the_output(layers: QuantizedModel) -> None:
    """Elements of the weight lie in the order of the matrix."""
    x = pictures(4)
    gram = capture_grams(layers, [x], ["conv"])["conv"].double()
    weight = layers.traced.weight("conv").double()
    error = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    output = functional.conv2d(x.double(), error, stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    rows = error.flatten(1)
    torch.testing.assert_close(((rows @ gram) * rows).sum(1), output.square().sum((0, 2, 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("site", "geometry"), [("up", {"stride": 2}), ("overlapping", {"stride": 2, "padding": 1, "output_padding": 1})]
)
@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_that_of_a_transposed_convolution_does_too(
    site: str, geometry: dict[str, int], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ELEMENTS_AT_ONCE", at_once)
    model = QuantizedModel(trace(upsampling(), IMAGES[:2]))
    gram = capture_grams(model, IMAGES.split(3), [site])[site].double()
    weight, layout = model.traced.weight(site), model.traced.sites_by_name[site].operand("weight").layout
    error = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    output = functional.conv_transpose2d(inputs_of(model, IMAGES, site), error, None, **geometry)
    rows = layout.rows(error)
    torch.testing.assert_close(((rows @ gram) * rows).sum(1), output.square().sum((0, 2, 3)), rtol=1e-5, atol=1e-5)


def test_layers_that_share_an_input_share_a_matrix(layers: QuantizedModel) -> None:
    grams = capture_grams(layers, [pictures(2)], ["first", "second", "conv", "same"])
    assert grams["first"] is grams["second"]
    assert grams["conv"] is grams["same"]


def test_other_products_have_none(layers: QuantizedModel) -> None:
    sites = {site.name: LayerInput.of_site(layers, site.name) for site in layers.traced.sites if site.macs}
    assert {name for name, found in sites.items() if found is not None} == {"conv", "same", "first", "second"}
    assert len(sites) == 6  # the grouped convolution and the product with a parameter are left
    with pytest.raises(CalibrationError, match="'grouped' is no linear layer or convolution in one group"):
        capture_grams(layers, [pictures(2)], ["grouped"])


def test_groups_fit_into_memory(layers: QuantizedModel) -> None:
    names = ["conv", "grouped", "same", "first", "second"]
    assert gram_groups(layers, names, 1 << 20) == [["conv", "same", "first", "second"]]
    assert gram_groups(layers, names, 4 * 18**2) == [["conv", "same"], ["first", "second"]]
    assert gram_groups(layers, names, 0) == [["conv"], ["same"], ["first"], ["second"]]
    assert gram_groups(layers, ["grouped"], 1 << 20) == []


def test_progress_counts_images_and_slots_are_emptied(layers: QuantizedModel) -> None:
    seen: list[int] = []
    capture_grams(layers, pictures(5).split(2), ["conv"], seen.append)
    assert seen == [2, 2, 1]
    assert layers.configuration() == {}


def test_inputs_that_are_not_finite_are_named(layers: QuantizedModel) -> None:
    x = pictures(2)
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(CalibrationError, match="conv:input has NaN or infinite values in full precision"):
        capture_grams(layers, [x], ["conv"])


def test_no_images_are_refused(layers: QuantizedModel) -> None:
    with pytest.raises(CalibrationError, match="no calibration images"):
        capture_grams(layers, [], ["conv"])
