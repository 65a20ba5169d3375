"""The rotation of least error on calibration images is chosen, or none where none helps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration.transforms.rotation.choose import SEEDS, RotationErrors, choose_rotations, rotation_errors
from autoq.calibration.transforms.rotation.find import find_spaces
from autoq.calibration.transforms.rotation.rotate import rotate
from autoq.errors import CalibrationError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import TracedModel, trace
from autoq.quantizers import UniformQuantizer
from autoq.recipe import OperandConfig
from tests.calibration.transforms.rotation.models import ALL, AV, QK, STREAM, Encoder, batch, traced


class Embedded(nn.Module):
    """Channels between two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, width, bias=False), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))


def embedded(weight: Tensor, channels: Tensor | float = 1.0) -> TracedModel:
    """Trace with a given first weight, and columns of the head multiplied by something."""
    module = Embedded(len(weight)).eval()
    with torch.no_grad():
        module.embed.weight.copy_(weight)
        module.head.weight.copy_(torch.randn(3, len(weight), generator=torch.Generator().manual_seed(0)) * channels)
    return trace(module, batch().float())


def outlier() -> TracedModel:
    """One channel is twenty times as large as the others, and its weights twenty times as small."""
    factor = torch.ones(64)
    factor[3] = 20
    weight = torch.randn(64, 5, generator=torch.Generator().manual_seed(2))
    return embedded(weight * factor.unsqueeze(1), 1 / factor)


def error_of(model: TracedModel, x: Tensor) -> float:
    """Mean squared error of the output, the head's input min-max quantized to 4 bits."""
    quantized = QuantizedModel(model)
    stream = torch.nn.functional.linear(x, model.weight("embed"))
    layout = model.sites_by_name["head"].operand("input").layout
    bounds = (stream.amin().view(1, 1, 1), stream.amax().view(1, 1, 1))
    config = OperandConfig(scheme="uniform", bits=4, granularity="tensor")
    quantized.insert_({("head", "input"): UniformQuantizer.from_range(config, layout, *bounds)})
    with torch.no_grad():
        return float((quantized(x) - model.graph_module(x)).square().mean())  # type: ignore[operator]


def test_outliers_are_spread_out() -> None:
    model, x = outlier(), batch(8).float()
    chosen = choose_rotations(QuantizedModel(model), [x])
    assert chosen.keys() == {"embed"}
    assert error_of(rotate(model, chosen), x) < 0.5 * error_of(model, x)


def test_channels_that_fit_their_grid_are_left_alone() -> None:
    """Values are whole numbers from 0 to 15: 4 bits lose nothing."""
    model = embedded(torch.eye(16)[:, :5])
    x = torch.randint(0, 16, (8, 8, 5), generator=torch.Generator().manual_seed(0)).float()
    errors = rotation_errors(QuantizedModel(model), [x])["embed"]
    assert errors.unrotated < 1e-9 < 1e-4 < min(errors.rotated)
    assert choose_rotations(QuantizedModel(model), [x]) == {}


def test_every_space_is_measured_in_one_pass_over_few_images() -> None:
    model, counts = QuantizedModel(traced(Encoder())), list[int]()
    batches = [batch(7), batch(7), batch(7), batch(7)]
    errors = rotation_errors(model, batches, counts.append)
    assert counts == [7, 7, 2]
    assert tuple(errors) == ALL
    for found in errors.values():
        assert len(found.rotated) == len(SEEDS)
        assert all(0 < error < 1 for error in (found.unrotated, *found.rotated))
        assert len(set(found.rotated)) == len(SEEDS)
    assert rotation_errors(model, batches) == errors
    assert all(slot.quantizer is None for slot in model.slots.values())


def test_errors_do_not_depend_on_scales_that_are_folded() -> None:
    """A LayerNorm's scale moved into the layer after it changes what is quantized, not what it is measured by."""
    model = traced(Encoder())
    errors = rotation_errors(QuantizedModel(model), [batch(8)])
    folded = rotation_errors(QuantizedModel(rotate(model, {STREAM: 0})), [batch(8)])
    assert folded[STREAM].unrotated == pytest.approx(errors[STREAM].rotated[0], rel=0.02)
    for name in (QK, AV):
        assert folded[name].unrotated == pytest.approx(errors[name].unrotated, rel=1e-4)
        turned = rotation_errors(QuantizedModel(rotate(model, {name: 2})), [batch(8)])
        assert turned[name].unrotated == pytest.approx(errors[name].rotated[2], rel=0.02)


def test_best() -> None:
    assert RotationErrors(0.3, (0.4, 0.2, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5)).best == 2
    assert RotationErrors(0.1, (0.1,) * 8).best is None


def test_images_are_needed() -> None:
    model = QuantizedModel(outlier())
    with pytest.raises(CalibrationError, match="no calibration images"):
        choose_rotations(model, [])
    with pytest.raises(CalibrationError, match="head:input has NaN"):
        choose_rotations(model, [batch().float() * torch.inf])


def test_a_model_without_spaces_needs_none() -> None:
    model = QuantizedModel(trace(nn.Sequential(nn.Linear(5, 3)).eval(), batch().float()))
    assert find_spaces(model.traced).rotatable == {}
    assert choose_rotations(model, []) == {}
