"""The loss that MLPs are trained with, and the settings of their training."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from autoq.errors import CalibrationError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.reconstruction.losses import normalized
from autoq.reconstruction.mlp_graph import find_mlps, with_relu
from autoq.reconstruction.mlp_training import (
    MlpSettings,
    forward_twice,
    mlp_loss,
    positive_quantile,
    span_of,
)
from tests.reconstruction.small_mlps import Branch, images, small, traced_small

# The loss


@given(
    values=st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=60),
    p=st.floats(0.01, 1),
)
def test_quantile_is_of_the_positive_values(values: list[float], p: float) -> None:
    positive = sorted(value for value in values if value > 0)
    found = float(positive_quantile(torch.tensor(values), p))
    assert found == (positive[max(1, math.ceil(p * len(positive))) - 1] if positive else math.inf)


def test_quantile_of_many_values_sees_all_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1 << 12, 192, generator=generator)
    x[:, ::2] = -1
    assert float(positive_quantile(x, 0.9)) == pytest.approx(0.9, abs=0.01)
    x[:, ::2] = 0.5 + torch.rand(1 << 12, 96, generator=generator) / 2
    assert float(positive_quantile(x, 0.5)) == pytest.approx(2 / 3, abs=0.01)


def test_loss_is_the_weighted_error_with_and_without_the_clamp() -> None:
    before = traced_small()
    mlp = find_mlps(before)[1]
    model = QuantizedModel(with_relu(before, [mlp]))
    span = span_of(model, mlp)
    state = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(2))
    target = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(3))
    hessian = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        output, clamped = forward_twice(model, span, mlp, (state,), 0.8)
        loss = mlp_loss(output, clamped, (target,), {0: hessian}, 2.0)
        branch = small().layers[1]
        hidden = branch.widen(branch.scaler(state)).relu()
        positive = sorted(value for value in hidden.flatten().tolist() if value > 0)
        top = positive[math.ceil(0.8 * len(positive)) - 1]
        expected = 0.0
        for values, weight in ((hidden, 1.0), (hidden.clamp(max=top), 2.0)):
            result = state + branch.narrow(values)
            for image, token, channel in torch.cartesian_prod(torch.arange(4), torch.arange(6), torch.arange(8)):
                error = float(result[image, token, channel] - target[image, token, channel])
                expected += weight * error**2 * float(hessian[0, token, channel]) / 2 / 4
    assert float(loss) == pytest.approx(expected, rel=1e-4)


class Overwriting(nn.Module):
    """Adds its MLP to a view, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.branch, self.head = nn.Linear(8, 8), Branch(nn.ReLU()), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images)[:, 0]
        x += self.branch(x)
        return self.head(x.mean(1))


def test_clamp_is_right_where_the_model_overwrites_its_tensors() -> None:
    torch.manual_seed(0)
    module = Overwriting().eval()
    relu = trace(module, images(2))
    # Find it with GELU, run it with ReLU: the names of the nodes are the same but for the activation's.
    module.branch.act = nn.GELU().eval()
    (mlp,) = find_mlps(trace(module, images(2)))
    module.branch.act = nn.ReLU().eval()
    model = QuantizedModel(relu)
    span = span_of(model, mlp)
    state: tuple[object, ...] = (images(3),)
    with torch.no_grad():
        for index in range(span.first):
            state = model.run_stage(index, state)
        x = module.embed(images(3))[:, 0]
        hidden = module.branch.widen(module.branch.scaler(x)).relu()
        low = hidden.clamp(max=float(positive_quantile(hidden, 0.5)))
        expected = [x + x + module.branch.narrow(values) for values in (hidden, low)]
        for found, wanted in zip(forward_twice(model, span, mlp, state, 0.5), expected, strict=True):
            leaves = [each for each in found if isinstance(each, Tensor)]
            assert any(each.shape == wanted.shape and torch.allclose(each, wanted, atol=1e-5) for each in leaves)


def test_hessians_are_brought_to_mean_one() -> None:
    found = normalized({0: torch.tensor([[1.0, 2.0]]), 3: torch.tensor([[6.0]])})
    assert torch.allclose(found[0], torch.tensor([[1 / 3, 2 / 3]]))
    assert torch.allclose(found[3], torch.tensor([[2.0]]))
    assert torch.equal(normalized({0: torch.zeros(1, 2)})[0], torch.ones(1, 2))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("iterations", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("clamp_quantile", 0.0),
        ("clamp_quantile", 1.1),
        ("clamp_weight", -1.0),
        ("inputs", "quantized"),
    ],
)
def test_refuses_settings_that_make_no_sense(name: str, value: object) -> None:
    with pytest.raises(CalibrationError, match=str(value)):
        MlpSettings(**{name: value})  # type: ignore[arg-type]
