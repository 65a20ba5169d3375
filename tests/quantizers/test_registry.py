from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from autoq.errors import CalibrationError, RecipeError
from autoq.quantizers import QUANTIZERS, BaseQuantizer, OperandLayout, create_quantizer, quantizer_class
from autoq.quantizers.granularity import expand_groups, group_ids
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import ATTENTION_MAP, CONV_INPUT, LINEAR_INPUT, LINEAR_WEIGHT


def test_every_scheme_is_registered_under_its_name() -> None:
    assert {"uniform", "log2", "log_sqrt2", "adalog", "instance_groups"} <= set(QUANTIZERS)
    for scheme, cls in QUANTIZERS.items():
        assert cls.scheme == scheme
        assert issubclass(cls, BaseQuantizer)
        assert cls.__doc__


def test_unknown_scheme_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown quantization scheme 'adalg'; .* Did you mean 'adalog'\?"):
        quantizer_class("adalg")
    with pytest.raises(RecipeError, match="there are uniform, log2"):
        create_quantizer(OperandConfig(scheme="xyz", bits=4), LINEAR_INPUT, {})


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


def test_importing_quantizers_imports_no_heavy_library() -> None:
    code = "import sys, autoq.quantizers; print(sorted({'optuna', 'timm', 'matplotlib', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
