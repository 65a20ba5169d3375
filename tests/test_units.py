"""Numbers and names as a person reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoq.units import (
    Metric,
    format_bops,
    format_digits,
    format_kl,
    prefix_for,
    readable_budget,
    readable_label,
)

TOP1 = Metric("top1_percent", "top-1", "top-1 accuracy", "%")
RMSE = Metric("rmse", "RMSE", "root mean squared error", higher_is_better=False)


@pytest.mark.parametrize(
    ("bops", "text"),
    [
        (0, "0 BOPs"),
        (999, "999 BOPs"),
        (93_123_456, "93.1 M BOPs"),
        (999_700_000, "1 G BOPs"),
        (1.258e12, "1.26 T BOPs"),
    ],
)
def test_bops_are_written_with_units(bops: float, text: str) -> None:
    assert format_bops(bops) == text


@pytest.mark.parametrize(
    ("kl", "text"), [(0, "0"), (-1e-9, "0"), (0.1, "0.10"), (0.0312, "0.031"), (9.99, "10"), (123.4, "123")]
)
def test_kl_has_two_digits(kl: float, text: str) -> None:
    assert format_kl(kl) == text


def test_labels_and_budgets_in_words() -> None:
    assert readable_label("w4a8") == "uniform 4/8"
    assert readable_label("trial 137") == "trial 137"
    assert readable_budget("60%") == "60 % of uniform 8/8"
    assert readable_label("w4a8s4") == "w4a8s4"
    assert readable_budget("w4a4") == "the cost of uniform 4/4"
    assert readable_budget("12.5G") == ""


@pytest.mark.parametrize(
    ("value", "decimals", "expected"), [(71.349, 1, "71.3 %"), (0, 1, "0.0 %"), (71.349, 2, "71.35 %")]
)
def test_percentages_have_decimals(value: float, decimals: int, expected: str) -> None:
    assert TOP1.format(value, decimals) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.012345, "0.0123"), (1234.5, "1230"), (0.0, "0")])
def test_other_metrics_have_significant_digits(value: float, expected: str) -> None:
    assert RMSE.format(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(999, (1.0, "")), (999.4, (1.0, "")), (999.6, (1e3, "k")), (1e15, (1e15, "P"))]
)
def test_prefixes_are_chosen_after_rounding(value: float, expected: tuple[float, str]) -> None:
    assert prefix_for(value) == expected


@given(st.floats(1e-3, 1e9) | st.floats(-1e9, -1e-3), st.integers(1, 6))
def test_significant_digits_are_those_of_rounding(value: float, digits: int) -> None:
    text = format_digits(value, digits)
    assert float(text) == float(f"{value:.{digits}g}")
    assert "e" not in text or abs(value) < 1e-4


def test_metrics_in_words() -> None:
    assert (TOP1.axis_label, RMSE.axis_label) == ("top-1 accuracy (%)", "root mean squared error")
    assert (TOP1.format_number(71.349), RMSE.format_number(0.0456789)) == ("71.3", "0.0457")
    assert (TOP1.format_difference(1.25), RMSE.format_difference(0.001234)) == ("1.2 points", "0.00123")
