"""How one operand is quantized."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from autoq.recipe._base import Frozen
from autoq.validation import power_of_two

FLOAT_BITS = 32
"""Bits of an operand that a recipe leaves in floating point."""
IMAGE_BITS = 8
"""Least width of the image where one width is meant for all activations: pixels have 8 bits to begin with (as in the
protocols of AdaLog, RepQ-ViT and IGQ-ViT)."""

Granularity = Literal["tensor", "channel", "head", "group"]


Overflow = Literal["zero_code", "extra_zero"]
"""Where a logarithm's values below its last level go."""


class OperandConfig(Frozen):
    """How one operand is quantized.

    Attributes:
        scheme: a name in ``autoq.quantizers.QUANTIZERS``.
        bits: code width; at most ``2**bits`` codes are used.
        granularity: which elements share quantizer parameters (schemes that support it).
        symmetric: zero point fixed at zero (``uniform`` only).
        groups: number of groups: static consecutive channels for ``uniform`` with granularity ``group``, quantizers
            chosen at run time for ``instance_groups``.
        log_base_numerator: AdaLog's q, the logarithm's base being 2**(q/37); None: fitted in calibration.
        overflow: where values below the last logarithmic level go: the last code (``zero_code``) or, as published, a
            (2**bits + 1)-th level (``extra_zero``).
        hadamard_block: channels that a Hadamard transform mixes (``hadamard`` only), a power of two; 1: none.
    """

    scheme: str
    bits: int = Field(ge=1, le=16)
    granularity: Granularity = "tensor"
    symmetric: bool = False
    groups: int = Field(default=1, ge=1)
    log_base_numerator: int | None = Field(default=None, ge=10, le=137)
    overflow: Overflow = "zero_code"
    hadamard_block: Annotated[int, AfterValidator(power_of_two)] = 1

    def to_json(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        return self.model_dump(exclude_defaults=True)


SiteConfig = dict[str, OperandConfig]
"""Operand name (``input``, ``weight``, ``lhs``, ``rhs``) to its configuration; absent operands stay in float."""
