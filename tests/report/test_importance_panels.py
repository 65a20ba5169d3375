"""The panels of the picture of importance, by what is drawn on their axes."""

from __future__ import annotations

import matplotlib.colors
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from autoq.report.importance_panels import (
    MOST_NAMED_CLASSES,
    NO_INFLUENCE,
    color_scale,
    colors_of_maps,
    draw_classes,
    draw_profile,
    draw_ranges,
    draw_tokens,
    profile_limits,
    relative,
)
from autoq.sensitivity.block_importance import OutputImportance


def output(hessian: Tensor, *, is_logits: bool = False) -> OutputImportance:
    return OutputImportance("blocks.0", "blocks.0", 1, hessian, hessian.ndim - 1, is_logits=is_logits)


@pytest.fixture
def axes() -> Axes:
    return Figure().subplots()


def test_values_are_times_their_mean() -> None:
    assert relative(np.array([1.0, 2.0, 3.0])).tolist() == [0.5, 1.0, 1.5]
    assert relative(np.zeros(3)).tolist() == [0, 0, 0]


def test_small_differences_do_not_fill_the_scale() -> None:
    even = output(torch.tensor([[[1.0, 1.01], [1.0, 0.99]]]))
    assert (color_scale([even]).vmin, color_scale([even]).vmax) == (0.5, 2.0)
    assert profile_limits([even]) == pytest.approx((0.5 / 1.3, 2 * 1.3))
    assert profile_limits([]) == pytest.approx((0.5 / 1.3, 2 * 1.3))


def test_scales_span_all_blocks_but_not_the_classes() -> None:
    uneven, wild = torch.tensor([[[0.2, 0.2], [3.8, 3.8]]]), torch.tensor([[1e-9, 1e9]])
    norm = color_scale([output(uneven), output(torch.ones(1, 2, 2)), output(wild, is_logits=True)])
    assert (norm.vmin, norm.vmax) == pytest.approx((0.1, 2.0))
    extreme = color_scale([output(wild.reshape(1, 2, 1))])
    assert (extreme.vmin, extreme.vmax) == pytest.approx((1e-3, 2.0)), "at most a thousandth of the mean"


def test_tokens_without_influence_are_masked(axes: Axes) -> None:
    values = np.array([[0.0, 1.0], [2.0, 0.5]])
    draw_tokens(axes, values, color_scale([]), colors_of_maps())
    (image,) = axes.images
    shown = image.get_array()
    assert np.ma.getmaskarray(shown).tolist() == [[True, False], [False, False]]
    assert matplotlib.colors.to_hex(image.cmap.get_bad()) == NO_INFLUENCE


def test_channels_fall_from_the_most_important(axes: Axes) -> None:
    draw_profile(axes, output(torch.tensor([[[1.0, 4.0, 3.0, 0.0]]])), (0.25, 2.5), named=True)
    x, y = axes.lines[-1].get_data()
    assert list(x) == [12.5, 37.5, 62.5, 87.5]
    assert list(y) == [2.0, 1.5, 0.5, 0.25], "zero lies at the edge"
    assert axes.get_xlabel() == "% of the channels"


@pytest.mark.parametrize(("classes", "named"), [(3, True), (MOST_NAMED_CLASSES, True), (MOST_NAMED_CLASSES + 1, False)])
def test_a_few_classes_are_named(axes: Axes, classes: int, named: bool) -> None:
    hessian = torch.arange(1.0, classes + 1)[None]
    draw_classes(axes, output(hessian, is_logits=True), [f"class {index}" for index in range(classes)])
    assert len(axes.patches) == classes
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == pytest.approx((hessian[0] / hessian.mean()).tolist())
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ([f"class {index}" for index in range(classes)] if named else [])
    assert (axes.get_xlabel() == "") is named


def test_ranges_are_drawn_where_there_is_one(axes: Axes) -> None:
    outputs = [output(torch.tensor([[[1.0, 4.0]]])), output(torch.zeros(1, 1, 2))]
    draw_ranges(axes, outputs, [0.0, 1.0])
    means = [line for line in axes.lines if line.get_marker() == "o"]
    assert [list(line.get_data()[0]) for line in means] == [[2.5]], "the second is zero: no place on the axis"
    low, high = axes.get_xlim()
    assert low < 1.0 < 4.0 < high
