"""Operand configurations that mean the same are written the same way."""

from __future__ import annotations

import pytest

from autoq.graph.canonical import canonical
from autoq.graph.sites import Operand
from autoq.quantizers import QUANTIZERS, OperandLayout
from autoq.recipe import OperandConfig

ATTENTION_MAP = Operand("lhs", (1, 3, 6, 6), "softmax", OperandLayout(4, -1, -3, -1, -2, 1, -1))
INPUT = Operand("input", (1, 6, 8), "layer_norm", OperandLayout(3, -1, None, -1, -1, 1, -1))
ONE_VALUE = Operand("input", (1, 8), "other", OperandLayout(2, -1, None, -1, None))
READ = {
    "uniform": {"granularity", "symmetric", "groups"},
    "hadamard": {"granularity", "symmetric", "groups", "hadamard_block"},
    "instance_groups": {"groups"},
    "adalog": {"granularity", "log_base_numerator", "overflow", "groups"},
    "log2": {"granularity", "overflow", "groups"},
    "log_sqrt2": {"granularity", "overflow", "groups"},
    "log_int_softmax": {"overflow"},
    "twin_uniform": {"granularity", "groups"},
    "twin_uniform_sum": {"granularity", "groups"},
    "power_of_two_factor": set(),
    "fp8_e4m3": {"granularity", "groups"},
    "mxfp4": set(),
    "mxint8": set(),
    "nvfp4": set(),
}
OTHER = {
    "granularity": "group",
    "symmetric": True,
    "groups": 3,
    "log_base_numerator": 20,
    "overflow": "extra_zero",
    "hadamard_block": 4,
}


@pytest.mark.parametrize("scheme", QUANTIZERS)
def test_fields_that_a_scheme_does_not_read_are_at_their_defaults(scheme: str) -> None:
    config = OperandConfig.model_validate({"scheme": scheme, "bits": 4} | OTHER)
    assert canonical(config, INPUT).to_json().keys() == {"scheme", "bits"} | READ[scheme]


@pytest.mark.parametrize("operand", [ATTENTION_MAP, INPUT, ONE_VALUE])
@pytest.mark.parametrize("scheme", QUANTIZERS)
def test_canonical_is_canonical(scheme: str, operand: Operand) -> None:
    for granularity in ("tensor", "channel", "head", "group"):
        config = OperandConfig.model_validate({"scheme": scheme, "bits": 4, "granularity": granularity, "groups": 100})
        once = canonical(config, operand)
        assert canonical(once, operand) == once
        assert once.groups <= max(operand.shape)


def test_what_an_operand_does_not_have() -> None:
    per_head = OperandConfig(scheme="uniform", bits=4, granularity="head")
    assert canonical(per_head, ATTENTION_MAP) == per_head
    assert canonical(per_head, INPUT).granularity == "tensor"
    grouped = OperandConfig(scheme="instance_groups", bits=4, groups=8)
    assert canonical(grouped, INPUT) == grouped
    assert canonical(grouped, ATTENTION_MAP).groups == 6
    for one in (canonical(grouped, ONE_VALUE), canonical(grouped.model_copy(update={"groups": 1}), INPUT)):
        assert one == OperandConfig(scheme="uniform", bits=4)
