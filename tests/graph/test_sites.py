"""Sites and operands as values."""

from __future__ import annotations

import pytest

from autoq.graph.sites import Operand, Site
from autoq.quantizers.granularity import OperandLayout

WEIGHT = Operand("weight", (4, 8), "parameter", OperandLayout(2, -2, instances_per_image=0))
INPUT = Operand("input", (1, 6, 8), "gelu", OperandLayout(3, -1))


def test_operands_are_found_by_name() -> None:
    site = Site("fc2", "linear", 192, (INPUT, WEIGHT))
    assert site.operand("weight") is WEIGHT
    with pytest.raises(KeyError, match=r"fc2 has no operand 'lhs'; it has \['input', 'weight'\]"):
        site.operand("lhs")


def test_only_parameters_are_weights() -> None:
    assert WEIGHT.is_weight
    assert not INPUT.is_weight
