"""Group bounds: what they cost under the run-time rule."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from autoq.calibration import CalibrationSettings, OperandSample, solve
from autoq.calibration.solvers.instance_groups import GroupFit
from autoq.graph.sites import GroupGeometry, Operand
from autoq.quantizers import InstanceGroupQuantizer, OperandLayout
from autoq.quantizers.instance_groups import entry_bounds
from autoq.recipe import OperandConfig
from tests.calibration.samples import operand, sample_of, squared_error

SETTINGS = CalibrationSettings()
SHAPE = (1, 50, 48)


def channels(count: int = 8, seed: int = 0) -> Tensor:
    """Channels whose widths differ from each other, and from image to image."""
    generator = torch.Generator().manual_seed(seed)
    widths = torch.logspace(-1, 1, SHAPE[2])[torch.randperm(SHAPE[2], generator=torch.Generator().manual_seed(9))]
    by_image = torch.rand(count, 1, SHAPE[2], generator=generator) + 0.5
    return torch.randn(count, *SHAPE[1:], generator=generator) * widths * by_image


def grouped(bits: int, groups: int) -> OperandConfig:
    return OperandConfig(scheme="instance_groups", bits=bits, groups=groups)


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_more_groups_are_never_worse(bits: int) -> None:
    described = operand(SHAPE)
    seen, unseen = (sample_of(described, channels(32, seed)) for seed in (0, 1))
    per_tensor = solve(described, OperandConfig(scheme="uniform", bits=bits), seen, SETTINGS)
    solved = [per_tensor, *(solve(described, grouped(bits, groups), seen, SETTINGS) for groups in (2, 4, 8))]
    errors = [squared_error(quantizer, seen) for quantizer in solved]
    assert all(more <= 1.02 * fewer for fewer, more in pairwise(errors)), errors
    assert errors[-1] < 0.75 * errors[0]
    # At eight bits, clipping what was not seen costs as much as finer steps gain.
    errors = [squared_error(quantizer, unseen) for quantizer in solved]
    assert max(errors[1:]) < 1.05 * errors[0] if bits == 8 else errors[-1] < 0.75 * errors[0]


def test_one_group_is_as_good_as_per_tensor() -> None:
    described, sample = operand(SHAPE), sample_of(operand(SHAPE), channels())
    per_tensor = squared_error(solve(described, OperandConfig(scheme="uniform", bits=4), sample, SETTINGS), sample)
    assert squared_error(solve(described, grouped(4, 1), sample, SETTINGS), sample) <= 1.03 * per_tensor


def test_two_kinds_of_channels_get_a_group_each() -> None:
    values = channels().sign() * torch.where(torch.arange(SHAPE[2]) % 2 == 0, 1.0, 10.0)
    sample = sample_of(operand(SHAPE), values)
    solved = solve(operand(SHAPE), grouped(2, 2), sample, SETTINGS)
    groups = solved.assign(values)
    assert groups is not None
    assert set(groups[..., ::2].unique().tolist()).isdisjoint(groups[..., 1::2].unique().tolist())


def test_prediction_from_cells_is_the_error_of_the_values() -> None:
    described, sample = operand(SHAPE), sample_of(operand(SHAPE), channels())
    fit = GroupFit(sample, described)
    fit._kept_share = 0.0  # or the bounds of entries would count a second time
    lower, upper = fit.least_error_bounds(4, 4)
    errors, distances = fit._costs(torch.stack([lower, upper], 1), 4)
    predicted = float(errors.gather(1, distances.argmin(1, keepdim=True)).sum())
    quantizer = InstanceGroupQuantizer.from_range(grouped(4, 4), described.layout, lower, upper)
    assert squared_error(quantizer, sample) == pytest.approx(predicted, rel=0.1)


def test_wide_entries_of_further_images_are_not_clipped_much() -> None:
    described, sample = operand(SHAPE), sample_of(operand(SHAPE), channels(4))
    wide = 3 * channels(64, seed=2)
    assert sample.entry_bounds is not None
    further = OperandSample(
        sample.values, sample.lower, sample.upper, sample.entry_bounds, entry_bounds(wide, described.layout)
    )
    with_further, without = (solve(described, grouped(8, 4), each, SETTINGS) for each in (further, sample))
    assert float((with_further(wide) - wide).square().sum()) < 0.5 * float((without(wide) - wide).square().sum())


@pytest.mark.parametrize(("observer", "percentile"), [("min_max", 100.0), ("percentile", 99.0)])
def test_alternation_ends_where_bounds_are_those_of_their_members(observer: str, percentile: float) -> None:
    uniform = 6 * torch.rand(4, *SHAPE[1:], generator=torch.Generator().manual_seed(0)) - 3
    values = uniform * torch.tensor([0.1, 1.0, 30.0]).repeat(16)
    described = operand(SHAPE)
    sample = sample_of(described, values)
    settings = CalibrationSettings(observer=observer, percentile=percentile)  # type: ignore[arg-type]
    solved = solve(described, grouped(4, 3), sample, settings).qparams()
    expected = []
    for kind in range(3):
        members = values[..., kind::3].flatten().sort().values
        rank = round(len(members) * percentile / 100)
        expected.append([float(members[len(members) - rank]), float(members[rank - 1])])
    found = torch.stack([solved["lower"], solved["upper"]], 1)
    torch.testing.assert_close(found[found[:, 1].argsort()], torch.tensor(expected))


def test_windows_of_an_image_are_assigned_together() -> None:
    layout = OperandLayout(ndim=3, channel_axis=-1, group_axis=-1, instance_group_axis=-1, instances_per_image=4)
    described = Operand("input", (4, 50, 48), "other", layout, GroupGeometry(4, 50, 48, 4))
    values = channels(12)
    sample = OperandSample(
        values, values.amin((0, 1), keepdim=True), values.amax((0, 1), keepdim=True), entry_bounds(values, layout)
    )
    solved = solve(described, grouped(4, 4), sample, SETTINGS)
    per_tensor = solve(described, OperandConfig(scheme="uniform", bits=4), sample, SETTINGS)
    assert squared_error(solved, sample) < 0.5 * squared_error(per_tensor, sample)


def test_rows_of_an_attention_map_are_grouped() -> None:
    layout = OperandLayout(ndim=4, channel_axis=-1, head_axis=-3, instance_group_axis=-2)
    described = Operand("lhs", (1, 3, 20, 20), "softmax", layout, GroupGeometry(3, 20, 20, 4))
    logits = torch.randn(6, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    values = (logits * torch.logspace(-1, 1, 20).view(1, 1, 20, 1)).softmax(-1)
    sample = sample_of(described, values)
    errors = [squared_error(solve(described, grouped(3, groups), sample, SETTINGS), sample) for groups in (1, 4)]
    assert errors[1] < 0.5 * errors[0]
