"""Bytes of the quantized weights, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from autoq.cost import weight_bytes
from autoq.cost.size import operand_bytes
from autoq.recipe import OperandConfig, SiteConfig
from tests.optimization.synthetic_sites import conv, linear, norm, product

GROUPED = linear("fc", 3, 10, 5)
GROUPED = replace(
    GROUPED,
    operands=tuple(replace(o, layout=replace(o.layout, group_axis=-1)) if o.is_weight else o for o in GROUPED.operands),
)
SITES = [norm("norm", 3, 10), linear("fc", 3, 10, 5), product("av", (1, 2, 4, 4), (1, 2, 4, 4), "softmax")]


def uniform(bits: int) -> OperandConfig:
    return OperandConfig(scheme="uniform", bits=bits)


@pytest.mark.parametrize(
    ("recipe", "size"),
    [({}, 200), ({"fc": {"weight": uniform(8)}}, 50 + 5), ({"fc": {"weight": uniform(3)}}, 19 + 5), ({"fc": {}}, 200)],
)
def test_weight_bytes_are_packed_codes_with_parameters_or_floats(recipe: dict[str, SiteConfig], size: int) -> None:
    """Fifty elements; 50 × 3 bits are 18.75 bytes, a scale and a zero point 35 bits."""
    assert weight_bytes(SITES, recipe) == size


def test_each_weight_is_padded_to_bytes_of_its_own() -> None:
    """5 and 27 elements of 3 bits are 15 and 81 bits, 2 and 11 bytes; activations have no bytes."""
    sites = [linear("fc", 1, 5, 1), conv("conv", 3, 1, 3, 2), product("qk", (1, 2, 4, 4), (1, 2, 4, 4))]
    recipe: dict[str, SiteConfig] = {
        "fc": {"input": uniform(8), "weight": uniform(3)},
        "conv": {"weight": uniform(3)},
        "qk": {"lhs": uniform(4), "rhs": uniform(4)},
    }
    assert weight_bytes(sites, recipe) == 2 + 11 + 2 * 5
    assert weight_bytes(sites, {}) == 4 * (5 + 27)


@pytest.mark.parametrize(
    ("fields", "parameter_bits"),
    [
        ({"granularity": "channel"}, 5 * (32 + 4)),
        ({"granularity": "channel", "symmetric": True}, 5 * 32),
        ({"granularity": "group", "groups": 2}, 2 * 5 * (32 + 4)),
        ({"symmetric": True}, 32),
    ],
)
def test_finer_parameters_take_more(fields: dict[str, Any], parameter_bits: int) -> None:
    (operand,) = [operand for operand in GROUPED.operands if operand.is_weight]
    config = OperandConfig(scheme="uniform", bits=4, **fields)
    assert operand_bytes(operand, config) == 25 + math.ceil(parameter_bits / 8)
