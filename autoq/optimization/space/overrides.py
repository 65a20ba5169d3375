"""Overrides of a search space by name: operands that keep one bit-width, and operands that stay in floating point.

A pattern is a glob over operand names as they are written everywhere, ``blocks.3.attn.qkv:weight``; one without a
colon means all operands of the sites that it matches. ``*`` also matches dots.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from autoq.errors import SpaceError
from autoq.validation import did_you_mean

_FIX = re.compile(r"(?P<pattern>[^=]+)=(?P<bits>\d+)")
_MOST_BITS = 16


@dataclass(frozen=True)
class Override:
    """What some operands get whatever the rules of a space say.

    Attributes:
        text: as it was written.
        pattern: glob over ``SITE:OPERAND``.
        bits: the only width; None: they stay in floating point.
    """

    text: str
    pattern: str
    bits: int | None = None

    @classmethod
    def fixing(cls, text: str) -> Override:
        """Read ``SITE[:OPERAND]=BITS``.

        Raises:
            ValueError: it is written otherwise, or the width is not from 1 to 16.

        >>> Override.fixing("head=8")
        Override(text='head=8', pattern='head:*', bits=8)
        """
        match = _FIX.fullmatch(text.strip())
        if match is None or not 1 <= int(match["bits"]) <= _MOST_BITS:
            raise ValueError(f"cannot read {text!r}: write SITE[:OPERAND]=BITS, such as 'head:*=8', 1 to 16 bits")
        return cls(text, _pattern(match["pattern"]), int(match["bits"]))

    @classmethod
    def excluding(cls, text: str) -> Override:
        """Read ``SITE[:OPERAND]``.

        Raises:
            ValueError: it is empty.

        >>> Override.excluding("*.attn.qk:lhs").matches("blocks.0.attn.qk", "lhs")
        True
        """
        if not text.strip() or "=" in text:
            raise ValueError(f"cannot read {text!r}: write SITE[:OPERAND], such as 'blocks.0.*'")
        return cls(text, _pattern(text))

    def matches(self, site: str, operand: str) -> bool:
        """Tell whether this is about an operand."""
        return fnmatchcase(f"{site}:{operand}", self.pattern)


def _pattern(written: str) -> str:
    pattern = written.strip()
    return pattern if ":" in pattern else f"{pattern}:*"


@dataclass(frozen=True)
class Overrides:
    """All overrides of a space. Exclusion wins over a width, and of several widths the last one.

    Attributes:
        fixed: operands with one width.
        excluded: operands in floating point.
    """

    fixed: tuple[Override, ...] = ()
    excluded: tuple[Override, ...] = ()

    @classmethod
    def parse(cls, fix: Sequence[str] = (), exclude: Sequence[str] = ()) -> Overrides:
        """Read both kinds.

        Raises:
            ValueError: one is not written as it should be.
        """
        return cls(tuple(map(Override.fixing, fix)), tuple(map(Override.excluding, exclude)))

    def excludes(self, site: str, operand: str) -> bool:
        """Tell whether an operand stays in floating point."""
        return any(override.matches(site, operand) for override in self.excluded)

    def bits(self, site: str, operand: str) -> int | None:
        """Return the width that an operand keeps, or None."""
        widths = [override.bits for override in self.fixed if override.matches(site, operand)]
        return widths[-1] if widths else None

    def refuse_unused(self, operands: Sequence[tuple[str, str]], quantized: Sequence[tuple[str, str]]) -> None:
        """Refuse patterns that are about nothing.

        Args:
            operands: (site, operand) of all operands of the model.
            quantized: those that the space quantizes, before anything is excluded.

        Raises:
            SpaceError: names the pattern and the nearest name.
        """
        for option, overrides, known in (("fix", self.fixed, quantized), ("exclude", self.excluded, operands)):
            for override in overrides:
                if any(override.matches(*operand) for operand in known):
                    continue
                if any(override.matches(*operand) for operand in operands):
                    raise SpaceError(
                        f"{option} {override.text!r}: the search space leaves these operands in floating point; take "
                        "one that quantizes them"
                    )
                names = [*dict.fromkeys(site for site, _ in operands), *(":".join(operand) for operand in operands)]
                written = override.pattern.removesuffix(":*")
                raise SpaceError(
                    f"{option} {override.text!r} matches no operand of this model (`autoq sites` lists them)."
                    f"{did_you_mean(written, names)}"
                )
