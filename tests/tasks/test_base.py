"""What tasks inherit: the choice of the compared outputs, records, losses, meters."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from autoq.errors import TaskError
from autoq.tasks import CLASSIFICATION, DenseTask


def test_a_wrong_output_lists_those_there_are() -> None:
    leaves = (torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), torch.ones(2, 5))
    names = ("depth", "count", "boxes")
    with pytest.raises(TaskError, match=r"no output 'depht' to compare, there is 'depth', 'boxes'.* 'depth'\?"):
        DenseTask(output="depht").select(leaves, names)
    with pytest.raises(TaskError, match="no output 'count'"):  # not a floating-point tensor
        DenseTask(output="count").select(leaves, names)
    with pytest.raises(TaskError, match="no floating-point tensor"):
        CLASSIFICATION.select((torch.zeros(2, dtype=torch.int64), None))
    assert CLASSIFICATION.select((torch.zeros(2, 3),), ("",)) == (0,)


def test_the_first_floating_point_tensor_is_compared() -> None:
    leaves = (None, torch.zeros(2, dtype=torch.int64), torch.ones(2, 5), torch.zeros(2, 4))
    assert CLASSIFICATION.select(leaves) == (2,)
    assert CLASSIFICATION.select(leaves, ("count", "a", "b")) == (2,)
    (chosen,) = DenseTask(output="b").outputs_of(leaves, ("count", "a", "b"))
    assert chosen is leaves[3]
    (chosen,) = DenseTask(output="1").outputs_of(leaves)  # without names, tensors have numbers
    assert chosen is leaves[2]


@dataclass(frozen=True)
class Configured(DenseTask):
    """A task with one more setting."""

    margin: int = 3


def test_records_hold_what_differs_from_the_defaults() -> None:
    assert Configured().to_json() == {"name": "dense"}
    assert Configured(output="depth", margin=4).to_json() == {"name": "dense", "output": "depth", "margin": 4}


def test_the_loss_is_the_mean_divergence_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(6, 5, generator=generator)
    output = (target + torch.randn(6, 5, generator=generator)).requires_grad_()
    expected = CLASSIFICATION.divergence((target,), (output,)).mean()
    assert CLASSIFICATION.loss((output,), (target,)) == expected
    half = CLASSIFICATION.loss((output.bfloat16(),), (target.bfloat16(),))
    assert half.dtype == torch.float32
    assert half == CLASSIFICATION.loss((output.bfloat16().float(),), (target.bfloat16().float(),))
