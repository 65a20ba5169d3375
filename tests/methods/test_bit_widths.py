"""Bit-widths as they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoq.errors import MethodError
from autoq.methods import BitWidths

widths = st.integers(1, 16)


@given(widths, widths, widths)
def test_round_trip(weights: int, activations: int, attention: int) -> None:
    chosen = BitWidths(weights, activations, attention)
    assert BitWidths.parse(str(chosen)) == chosen


def test_attention_maps_are_activations_unless_said_otherwise() -> None:
    assert BitWidths.parse(" W3A4 ") == BitWidths(3, 4, 4)
    assert BitWidths.parse("w8a8s4") == BitWidths(8, 8, 4)
    assert str(BitWidths(8, 8, 8)) == "w8a8"


@pytest.mark.parametrize(
    "text", ["", "4", "w4", "a4w4", "w4a4s", "w4a4x2", "w4.5a4", "w-4a4", "w0a4", "w4a17", "w4a4s99"]
)
def test_refuses_other_texts(text: str) -> None:
    with pytest.raises(MethodError, match="bits"):
        BitWidths.parse(text)
