"""``w4a4``, ``w8a8s4``: the uniform bit-widths of a published method."""

from __future__ import annotations

import re
from dataclasses import dataclass

from autoq.errors import MethodError

_MOST_BITS = 16


@dataclass(frozen=True)
class BitWidths:
    """One width for each kind of operand.

    Attributes:
        weights: of every weight.
        activations: of every activation but attention maps.
        attention: of attention maps (softmax outputs).
    """

    weights: int
    activations: int
    attention: int

    @classmethod
    def parse(cls, text: str) -> BitWidths:
        """Read ``w4a4`` (attention maps like other activations) or ``w8a8s4`` (as papers write 8/8/4).

        Raises:
            MethodError: the text is something else, or a width is not in 1..16.
        """
        match = re.fullmatch(r"w(\d+)a(\d+)(?:s(\d+))?", text.strip().lower())
        if match is None:
            raise MethodError(f"cannot read bits {text!r}: write w4a4, or w8a8s4 with 4-bit attention maps")
        weights, activations = int(match[1]), int(match[2])
        widths = cls(weights, activations, int(match[3]) if match[3] else activations)
        for width in (widths.weights, widths.activations, widths.attention):
            if not 1 <= width <= _MOST_BITS:
                raise MethodError(f"bits {text!r}: {width} is not between 1 and {_MOST_BITS}")
        return widths

    def __str__(self) -> str:
        """Write what :meth:`parse` reads."""
        attention = "" if self.attention == self.activations else f"s{self.attention}"
        return f"w{self.weights}a{self.activations}{attention}"
