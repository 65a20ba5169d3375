"""Rounding to nearest."""

from __future__ import annotations

from autoq.methods import create_method
from tests.methods.configured import WIDTHS, by_kind, traced_model, uniform


def test_configurations() -> None:
    assert by_kind(create_method("rtn")) == {
        "image": uniform(8),
        "weight": uniform(3, granularity="channel", symmetric=True),
        "layer input": uniform(5),
        "query": uniform(5),
        "key": uniform(5),
        "value": uniform(5),
        "attention map": uniform(4),
        "gelu output": uniform(5),
    }


def test_ranges_are_those_of_the_values() -> None:
    method = create_method("rtn")
    assert (method.settings(3).observer, method.settings(3).seed) == ("min_max", 3)
    assert method.reparameterized(traced_model(), WIDTHS) == {}
