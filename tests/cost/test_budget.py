"""Budgets as people write them, and what is not one."""

from __future__ import annotations

import pytest

from autoq.cost import Budget
from autoq.errors import BudgetError


def uniform_cost(weight_bits: int, activation_bits: int) -> int:
    """Of a model with 900 MACs in weight layers and 100 in attention products."""
    return 900 * weight_bits * activation_bits + 100 * activation_bits**2


@pytest.mark.parametrize(
    ("text", "bops"),
    [
        ("12.5G", 12_500_000_000),
        ("1.1T", 1_100_000_000_000),
        ("2P", 2 * 10**15),
        ("500M", 500_000_000),
        ("7k", 7_000),
        ("123456", 123_456),
        (".5G", 500_000_000),
        ("3.G", 3_000_000_000),
        ("1e9", 1_000_000_000),
        ("2.5E-3G", 2_500_000),
        (" 4 g ", 4_000_000_000),
        ("4 GBOPs", 4_000_000_000),
        ("4gbop", 4_000_000_000),
        ("1", 1),
        ("w4a4", 16_000),
        ("W8A4", 900 * 32 + 100 * 16),
        ("w1a32", 900 * 32 + 100 * 1024),
        ("100%", 64_000),
        ("60 %", 38_400),
        ("12.5%", 8_000),
        (".1%", 64),
        ("150%", 96_000),
    ],
)
def test_accepted(text: str, bops: int) -> None:
    budget = Budget.parse(text)
    assert budget.resolve(uniform_cost) == bops
    assert budget.text == text.strip()
    assert sum(value is not None for value in (budget.absolute, budget.uniform, budget.percent)) == 1


FORMS = ("12.5G", "w4a4", "60%")
UNREADABLE = ["", "  ", "nonsense", "-5G", "-1%", "w4", "a4", "4w4a", "w4a4a4", "w-4a4", "w4.5a4", "nan", "inf"]
UNREADABLE += [
    "1e",
    "G",
    "%",
    "60%%",
    "12.5X",
    "1,5G",
    "1_000",
    "12.5 G G",
    "1.2.3",
    "0x10",
    "1\nG",
    "w4a4\nw8a8",
    "²G",
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_unreadable(text: str) -> None:
    check(text, "cannot read budget", *FORMS)


@pytest.mark.parametrize("text", ["0", "0G", "0.0T", "0%", "00.0%", "1e-400G", "0.5"])
def test_nothing(text: str) -> None:
    check(text, "leaves nothing to compute with", *FORMS)


@pytest.mark.parametrize("text", ["1e400G", "1e308P", "9" * 400, "9" * 400 + "%"])
def test_too_much(text: str) -> None:
    check(text, "more than a number can hold", *FORMS)


@pytest.mark.parametrize("text", ["w0a4", "w4a0", "w33a4", "w4a100"])
def test_widths_that_do_not_exist(text: str) -> None:
    check(text, "bit-widths go from 1 to 32")


def check(text: str, *parts: str) -> None:
    with pytest.raises(BudgetError) as caught:
        Budget.parse(text)
    message = str(caught.value)
    assert "\n" not in message
    for part in (repr(text), *parts):
        assert part in message


def test_widths_to_compare_with_are_those_named_or_the_most_bits_within() -> None:
    def cost(weights: int, activations: int) -> int:
        return 10 * weights * activations

    for text, expected in (("w3a5", (3, 5)), ("160", (4, 4)), ("159", (3, 3)), ("1G", (8, 8)), ("39", None)):
        assert Budget.parse(text).widths(cost) == expected
