"""What a node does, told from its operator."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import fx

from autoq.graph.nodes import is_cast, is_move, is_view, op_name

aten = torch.ops.aten


def node(target: Any, *args: object, dtype: torch.dtype = torch.float32) -> fx.Node:
    graph = fx.Graph()
    created = graph.call_function(target, (graph.placeholder("x"), *args))
    created.meta["val"] = torch.zeros(2, dtype=dtype)
    return created


def test_operators_are_named_without_overload() -> None:
    assert op_name(node(aten.add.Tensor, 1)) == "add"
    assert op_name(node(operator.getitem, 0)) == ""
    assert op_name(fx.Graph().placeholder("x")) == ""


@pytest.mark.parametrize(
    ("created", "view", "cast", "move"),
    [
        (node(aten.permute.default, [1, 0]), True, False, True),
        (node(operator.getitem, 0), True, False, True),
        (node(aten.to.dtype, torch.float16, dtype=torch.float16), True, True, True),
        (node(aten.to.dtype, torch.int64, dtype=torch.int64), True, True, False),
        (node(aten._to_copy.default), False, True, True),
        (node(aten.roll.default, [1]), False, False, True),
        (node(aten.pad.default, [0, 0]), False, False, True),
        (node(aten.pad.default, [0, 1]), False, False, False),
        (node(aten.as_strided.default, [2], [1]), True, False, False),
        (node(aten.dropout.default, 0.5, False), True, False, False),
        (node(aten.relu.default), False, False, False),
    ],
)
def test_views_casts_and_moves(created: fx.Node, view: bool, cast: bool, move: bool) -> None:
    assert (is_view(created), is_cast(created), is_move(created)) == (view, cast, move)
