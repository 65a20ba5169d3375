"""Keys are centred where that lowers the error of a few bits, and left alone elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoq.calibration.transforms.centring.centre import centre_keys
from autoq.calibration.transforms.centring.choose import choose_centres
from autoq.errors import CalibrationError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import TracedModel, trace
from autoq.quantizers import UniformQuantizer
from autoq.recipe import OperandConfig
from tests.calibration.transforms.centring.models import Attention, recorded
from tests.calibration.transforms.rotation.models import QK, WIDTH, batch

X = batch(16).float()


def attention(key_bias: float = 0.0, *, bias: bool = True) -> TracedModel:
    """Make an attention layer whose keys have a mean of their own."""
    generator = torch.Generator().manual_seed(0)
    module = Attention(bias=bias).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        if bias:
            module.qkv.bias.zero_()
            module.qkv.bias[WIDTH : 2 * WIDTH] = key_bias * torch.randn(WIDTH, generator=generator)
    return trace(module, X)


def error_of(model: TracedModel, x: Tensor) -> float:
    """Return the mean squared error of the output with keys at 4 bits, in their observed range of each head."""
    quantized, keys = QuantizedModel(model), recorded(model, (QK, "rhs"), x)
    layout = model.sites_by_name[QK].operand("rhs").layout
    bounds = (keys.amin((0, 2, 3), keepdim=True), keys.amax((0, 2, 3), keepdim=True))
    config = OperandConfig(scheme="uniform", bits=4, granularity="head")
    quantized.insert_({(QK, "rhs"): UniformQuantizer.from_range(config, layout, *bounds)})
    with torch.no_grad():
        return float((quantized(x) - model.graph_module(x)).square().mean())  # type: ignore[operator]


def test_keys_far_from_zero_are_centred_at_their_mean() -> None:
    model = attention(key_bias=5.0)
    centres = choose_centres(QuantizedModel(model), X.split(8))
    keys = recorded(model, (QK, "rhs"), X)  # (N, heads, width, tokens)
    assert centres[QK].dtype == torch.float32
    assert torch.allclose(centres[QK], keys.mean((0, 3)), atol=1e-4)
    assert error_of(centre_keys(model, centres), X) < 0.6 * error_of(model, X)


def test_a_layer_without_bias_gets_one() -> None:
    model, shifted = attention(bias=False), X + 4
    centres = choose_centres(QuantizedModel(model), [shifted])
    assert centres.keys() == {QK}
    changed = centre_keys(model, centres)
    with torch.no_grad():
        assert torch.allclose(changed.graph_module(shifted), model.graph_module(shifted), atol=1e-4)  # type: ignore[operator]
    assert error_of(changed, shifted) < error_of(model, shifted)


def test_keys_on_their_grid_are_left_alone() -> None:
    """Whole numbers from 0 to 15: 4 bits lose nothing as they are."""
    module = Attention().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.qkv.weight[:WIDTH, 0] = 1
        module.qkv.weight[WIDTH : 2 * WIDTH, 1] = 1
    x = torch.randint(0, 16, (4, 8, 5), generator=torch.Generator().manual_seed(0)).float()
    x[..., 0] %= 2
    assert choose_centres(QuantizedModel(trace(module, x)), [x]) == {}


def test_one_pass_over_all_images() -> None:
    counts: list[int] = []
    choose_centres(QuantizedModel(attention()), X.split(6), counts.append)
    assert counts == [6, 6, 4]


def test_a_model_without_keys_is_not_run() -> None:
    model = QuantizedModel(trace(torch.nn.Sequential(torch.nn.Linear(5, 3)).eval(), X))
    assert choose_centres(model, [X], lambda _: pytest.fail("ran")) == {}


@pytest.mark.parametrize("batches", [[], [torch.full_like(X, float("nan"))]])
def test_images_that_say_nothing(batches: list[Tensor]) -> None:
    with pytest.raises(CalibrationError, match=r"there are no calibration images|has NaN or infinite values"):
        choose_centres(QuantizedModel(attention()), batches)
