"""Texts for configurations."""

from __future__ import annotations

import pytest

from autoq.quantizers import SchemeLabel, quantizer_class
from autoq.quantizers._label import group_label
from autoq.recipe import OperandConfig


def test_groups_are_marked_by_their_number() -> None:
    assert group_label(OperandConfig(scheme="instance_groups", bits=4, groups=12)) == SchemeLabel(
        "g12", "g8: uniform in 8 groups."
    )


@pytest.mark.parametrize(
    "config",
    [
        OperandConfig(scheme="uniform", bits=4, granularity="group", groups=3),
        OperandConfig(scheme="instance_groups", bits=4, groups=3),
    ],
)
def test_schemes_with_groups_have_that_mark(config: OperandConfig) -> None:
    assert quantizer_class(config.scheme).label(config) == group_label(config)


def test_a_label_has_neither_note_nor_base_unless_given() -> None:
    label = SchemeLabel("x")
    assert (label.mark, label.note, label.log_base) == ("x", "", "")
