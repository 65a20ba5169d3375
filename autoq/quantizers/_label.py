"""How tables, pictures and pages name a quantizer's configuration."""

from __future__ import annotations

from dataclasses import dataclass

from autoq.recipe import OperandConfig


@dataclass(frozen=True)
class SchemeLabel:
    """Texts for one configuration.

    Attributes:
        mark: a few letters for a cell of a table, as ``g8`` or ``q37``; empty for the plainest scheme.
        note: a sentence that explains marks of this kind; empty where the mark explains itself.
        log_base: the base of a logarithmic scheme, as ``√2``, or ``fit`` where calibration chooses it; else empty.
    """

    mark: str
    note: str = ""
    log_base: str = ""


def group_label(config: OperandConfig) -> SchemeLabel:
    """Return the label of a uniform scheme with groups, ``g8`` for eight.

    >>> group_label(OperandConfig(scheme="instance_groups", bits=4, groups=12)).mark
    'g12'
    """
    return SchemeLabel(f"g{config.groups}", "g8: uniform in 8 groups.")
