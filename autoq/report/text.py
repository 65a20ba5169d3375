"""Text on pictures: names as they are, powers of ten, and notes put together into lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@contextmanager
def literal_text() -> Iterator[None]:
    """Draw text as it is within the block: a dollar sign in a name starts no formula, whatever the user's settings."""
    import matplotlib as mpl

    with mpl.rc_context({"text.usetex": False, "text.parse_math": False}):
        yield


def power_of_ten(value: float) -> str:
    """Format the nearest power of ten without a formula: ``10⁻³``."""
    return f"10{str(round(math.log10(value))).translate(_SUPERSCRIPTS)}"


def fill_lines(notes: Iterable[str], width: int) -> list[str]:
    """Put notes together into lines shorter than ``width`` letters, as many a line as fit; a long note is a line."""
    lines: list[str] = []
    for note in notes:
        if lines and len(lines[-1]) + len(note) < width:
            lines[-1] += f" {note}"
        else:
            lines.append(note)
    return lines
