"""Spaces whose recipes would have codes that do not multiply are refused, with the remedy."""

from __future__ import annotations

import pytest

from autoq.errors import SpaceError
from autoq.optimization.space import parse_space, resolve_space
from tests.optimization.synthetic_sites import linear

FORMATS = 'schema_version = 1\n[[rules]]\nscheme = ["uniform", "mxfp4", "nvfp4"]\nbits = [4, 6, 8]\n'
HEAD = [linear("head", 1, 48, 8)]


def test_operands_that_may_get_different_number_formats_are_refused() -> None:
    with pytest.raises(
        SpaceError, match=r"operands of head number formats of their own \(integer, mx, nvfp4\).*\[\[ties"
    ):
        resolve_space(parse_space(FORMATS), HEAD)


def test_the_remedy_helps() -> None:
    """So does one number format for all, and quantizing one operand alone."""
    tie = '[[ties]]\nmatch = "*"\nfields = ["scheme"]\nby = "site"\n'
    for text in (FORMATS + tie, FORMATS.replace('["uniform", "mxfp4", "nvfp4"]', '["mxfp4", "mxint8"]')):
        assert len(resolve_space(parse_space(text), HEAD).plans) == 2
    alone = FORMATS + '[[rules]]\noperand = "input"\nquantize = false\n'
    assert len(resolve_space(parse_space(alone), HEAD).plans) == 1
