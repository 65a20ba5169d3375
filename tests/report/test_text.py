"""Powers of ten and lines of notes."""

from __future__ import annotations

import matplotlib as mpl
import pytest

from autoq.report.text import fill_lines, literal_text, power_of_ten


@pytest.mark.parametrize(("value", "text"), [(1.0, "10⁰"), (0.001, "10⁻³"), (1e12, "10¹²")])
def test_powers_are_written_without_a_formula(value: float, text: str) -> None:
    assert power_of_ten(value) == text


def test_notes_share_a_line_while_they_fit() -> None:
    assert fill_lines(["aa", "bb", "cc"], 5) == ["aa bb", "cc"]


def test_a_note_longer_than_a_line_stays_whole() -> None:
    assert fill_lines(["a", "b" * 9, "c"], 5) == ["a", "b" * 9, "c"]


def test_no_notes_give_no_lines() -> None:
    assert fill_lines([], 5) == []


def test_names_with_dollar_signs_are_no_formulas_within_the_block_alone() -> None:
    with mpl.rc_context({"text.usetex": True, "text.parse_math": True}):
        with literal_text():
            inside = [mpl.rcParams[name] for name in ("text.usetex", "text.parse_math")]
        after = [mpl.rcParams[name] for name in ("text.usetex", "text.parse_math")]
    assert inside == [False, False]
    assert after == [True, True]
