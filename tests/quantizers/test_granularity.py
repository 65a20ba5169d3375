"""Axes of operands, shapes of parameters, static groups."""

from __future__ import annotations

import pytest
import torch

from autoq.errors import CalibrationError
from autoq.quantizers import OperandLayout
from autoq.quantizers.granularity import count_groups, expand_groups, group_ids
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import ATTENTION_MAP, CONV_INPUT, LINEAR_INPUT, LINEAR_WEIGHT


@pytest.mark.parametrize(
    ("layout", "shape", "granularity", "expected"),
    [
        (LINEAR_INPUT, (2, 5, 8), "tensor", (1, 1, 1)),
        (LINEAR_INPUT, (2, 5, 8), "channel", (1, 1, 8)),
        (LINEAR_INPUT, (2, 5, 8), "group", (1, 1, 3)),
        (LINEAR_INPUT, (2, 5, 2), "group", (1, 1, 2)),
        (LINEAR_WEIGHT, (6, 8), "channel", (6, 1)),
        (LINEAR_WEIGHT, (6, 8), "group", (6, 3)),
        (CONV_INPUT, (2, 6, 4, 4), "channel", (1, 6, 1, 1)),
        (ATTENTION_MAP, (2, 3, 5, 5), "head", (1, 3, 1, 1)),
    ],
)
def test_parameter_shape(
    layout: OperandLayout, shape: tuple[int, ...], granularity: str, expected: tuple[int, ...]
) -> None:
    config = OperandConfig.model_validate({"scheme": "uniform", "bits": 4, "granularity": granularity, "groups": 3})
    assert layout.parameter_shape(shape, config) == expected


def test_granularity_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CalibrationError, match="head"):
        LINEAR_INPUT.parameter_shape((1, 2, 3), OperandConfig(scheme="uniform", bits=4, granularity="head"))
    with pytest.raises(CalibrationError, match="summed channel axis"):
        OperandLayout(ndim=1, channel_axis=-1).parameter_shape(
            (3,), OperandConfig(scheme="uniform", bits=4, granularity="group")
        )


@pytest.mark.parametrize(("channels", "groups"), [(8, 3), (12, 4), (5, 5), (7, 1), (192, 12), (197, 8)])
def test_groups_are_runs_of_nearly_equal_length(channels: int, groups: int) -> None:
    ids = group_ids(channels, groups)
    assert ids.tolist() == [channel * groups // channels for channel in range(channels)]
    sizes = ids.bincount()
    assert len(sizes) == groups
    assert sizes.max() - sizes.min() <= 1
    assert torch.equal(expand_groups(torch.arange(groups)[None], channels, -1), ids[None])


def test_groups_are_at_most_the_entries_of_their_axis() -> None:
    config = OperandConfig(scheme="instance_groups", bits=4, groups=6)
    assert count_groups(config, -1, (2, 5, 8)) == 6
    assert count_groups(config, -2, (2, 5, 8)) == 5
    assert count_groups(config, None, (2, 5, 8)) == 1
