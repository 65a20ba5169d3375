"""Types of values in a search space: scalars and lists, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from autoq.optimization.space import field_types

ACCEPTED: list[tuple[str, Any, tuple[Any, ...]]] = [
    ("Bits", 4, (4,)),
    ("Bits", [8, 2], (8, 2)),
    ("Groups", [1, 64], (1, 64)),
    ("Symmetric", True, (True,)),
    ("LogBases", ["fit", 37], ("fit", 37)),
    ("Globs", "blocks.*", ("blocks.*",)),
    ("Schemes", "uniform", ("uniform",)),
    ("Ops", ["linear", "matmul"], ("linear", "matmul")),
    ("Producers", "gelu", ("gelu",)),
]


@pytest.mark.parametrize(("kind", "value", "expected"), ACCEPTED)
def test_a_scalar_or_a_list_becomes_a_tuple(kind: str, value: Any, expected: tuple[Any, ...]) -> None:
    assert TypeAdapter(getattr(field_types, kind)).validate_python(value) == expected


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("Bits", 0, "expected a whole number from 1 to 16, got 0"),
        ("Bits", [3, 3], "3 is listed twice"),
        ("Groups", [], "an empty list leaves nothing to choose from"),
        ("LogBases", 138, '"fit" leaves the base to calibration'),
        ("Flag", 1, "expected true or false, got 1"),
        ("TieScope", "block", "'block' is not one of site, operand, all"),
        ("Schemes", "adalgo", "Did you mean 'adalog'?"),
    ],
)
def test_other_values_are_refused(kind: str, value: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(getattr(field_types, kind)).validate_python(value)
    assert message in str(caught.value)
