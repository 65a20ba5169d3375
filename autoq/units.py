"""Format numbers and names, the same in pictures, tables and the page."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))

LABELS_BY = {"name": "by name", "index": "by index", "order": "by order of classes"}
"""How labels were matched with a model's outputs, in words."""


def prefix_for(value: float) -> tuple[float, str]:
    """Return the largest SI prefix that leaves ``value``, rounded to three digits, at one or more."""
    for factor, prefix in _PREFIXES:
        if float(f"{value:.3g}") >= factor:
            return factor, prefix
    return 1.0, ""


def format_bops(bops: float) -> str:
    """Format bit operations with three significant digits and an SI prefix: ``93.1 M BOPs``."""
    factor, prefix = prefix_for(bops)
    return " ".join(filter(None, (format_digits(bops / factor), prefix, "BOPs")))


def format_bytes(size: float) -> str:
    """Format a number of bytes with three significant digits and an SI prefix.

    >>> format_bytes(3_200_000), format_bytes(812)
    ('3.2 MB', '812 B')
    """
    factor, prefix = prefix_for(size)
    return f"{format_digits(size / factor)} {prefix}B"


def format_nanoseconds(time: float) -> str:
    """Format a time in nanoseconds with three significant digits, in milliseconds or, where it is short, microseconds.

    >>> format_nanoseconds(4_210_000), format_nanoseconds(56_000)
    ('4.21 ms', '56 us')
    """
    factor, unit = (1e6, "ms") if time >= 1e6 else (1e3, "us")
    return f"{format_digits(time / factor)} {unit}"


def format_digits(value: float, digits: int = 3) -> str:
    """Format ``value`` with ``digits`` significant digits, without an exponent where possible."""
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0:
        return "0"
    return f"{rounded:.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


def format_kl(kl_nats: float) -> str:
    """Format a discrepancy with two significant digits, trailing zeros kept."""
    if kl_nats <= 0:
        return "0"
    return f"{kl_nats:.0f}" if float(f"{kl_nats:.1e}") >= 10 else f"{kl_nats:#.2g}"


def readable_label(label: str) -> str:
    """Return ``uniform 4/4`` for ``w4a4``; other labels as they are."""
    match = re.fullmatch(r"w(\d+)a(\d+)", label)
    return f"uniform {match[1]}/{match[2]}" if match else label


def readable_budget(text: str) -> str:
    """Describe a budget that was not given in BOPs: ``the cost of uniform 4/4``; else an empty string."""
    if readable_label(text) != text:
        return f"the cost of {readable_label(text)}"
    return f"{text[:-1]} % of uniform 8/8" if text.endswith("%") else ""


def format_seconds(seconds: float) -> str:
    """Format a time that is only known roughly.

    >>> format_seconds(41.3), format_seconds(754.0), format_seconds(9000.0)
    ('41 s', '13 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Metric:
    """A metric measured on labelled images.

    >>> Metric("top1_percent", "top-1", "top-1 accuracy", "%").format(71.34)
    '71.3 %'
    >>> Metric("rmse", "RMSE", "root mean squared error", higher_is_better=False).format(0.04567)
    '0.0457'

    Attributes:
        name: in tables and JSON.
        title: in a sentence.
        description: in full, without the unit.
        unit: of the number; empty if it is that of the model's output.
        higher_is_better: False for errors.
    """

    name: str
    title: str
    description: str
    unit: Literal["%", ""] = ""
    higher_is_better: bool = True

    @property
    def axis_label(self) -> str:
        """The description with the unit, if there is one."""
        return f"{self.description} ({self.unit})" if self.unit else self.description

    def format(self, value: float, decimals: int = 1) -> str:
        """Write a value with its unit: a percentage with these decimals, anything else at three significant digits."""
        return " ".join(filter(None, (self.format_number(value, decimals), self.unit)))

    def format_number(self, value: float, decimals: int = 1) -> str:
        """Write a value without its unit."""
        return f"{value:.{decimals}f}" if self.unit == "%" else format_digits(value)

    def format_difference(self, value: float) -> str:
        """Write how far two values are apart: percentages by points."""
        return f"{value:.1f} points" if self.unit == "%" else format_digits(value)


@dataclass(frozen=True)
class Loss:
    """What a search minimises and chooses recipes by, as tables and pictures name it.

    >>> Loss("output_mse", "output MSE", "mean squared error of the output").format(0.0123)
    '0.012'

    Attributes:
        name: in tables.
        title: in a sentence.
        description: in full, without the unit.
        unit: of the number; empty if it is that of the model's output, squared.
    """

    name: str
    title: str
    description: str
    unit: Literal["nats", "%", ""] = ""

    @property
    def axis_label(self) -> str:
        """The description with the unit, if there is one."""
        return f"{self.description} ({self.unit})" if self.unit else self.description

    def format(self, value: float) -> str:
        """Write a value with its unit, at two significant digits."""
        return " ".join(filter(None, (format_kl(value), self.unit)))


KL_LOSS = Loss("kl_nats", "KL", "KL from full precision", "nats")
"""The loss of most searches."""
