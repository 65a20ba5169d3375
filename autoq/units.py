"""Numbers and names as a person reads them; the same in pictures, tables and the page."""

from __future__ import annotations

import re

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def prefix_for(value: float) -> tuple[float, str]:
    """The largest SI prefix that leaves ``value``, rounded to three digits, at one or more."""
    for factor, prefix in _PREFIXES:
        if float(f"{value:.3g}") >= factor:
            return factor, prefix
    return 1.0, ""


def format_bops(bops: float) -> str:
    """``93.1 M BOPs``: three significant digits and an SI prefix."""
    factor, prefix = prefix_for(bops)
    return " ".join(filter(None, (format_digits(bops / factor), prefix, "BOPs")))


def format_digits(value: float, digits: int = 3) -> str:
    """``value`` at ``digits`` significant digits, without an exponent where one can do without."""
    rounded = float(f"{value:.{digits}g}")
    if rounded == 0:
        return "0"
    return f"{rounded:.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


def format_kl(kl_nats: float) -> str:
    """A discrepancy at two significant digits, trailing zeros kept."""
    if kl_nats <= 0:
        return "0"
    return f"{kl_nats:.0f}" if float(f"{kl_nats:.1e}") >= 10 else f"{kl_nats:#.2g}"


def readable_label(label: str) -> str:
    """``uniform 4/4`` for ``w4a4``; other labels as they are."""
    match = re.fullmatch(r"w(\d+)a(\d+)", label)
    return f"uniform {match[1]}/{match[2]}" if match else label


def readable_budget(text: str) -> str:
    """What a budget is when it was not given in BOPs, or an empty string: ``the cost of uniform 4/4``."""
    if readable_label(text) != text:
        return f"the cost of {readable_label(text)}"
    return f"{text[:-1]} % of uniform 8/8" if text.endswith("%") else ""
