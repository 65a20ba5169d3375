"""Hardware descriptions: TOML files that say what may be quantized, and how, where a model is to run.

A target has the rules of a search space, which later ones override field by field, with another meaning: a list is what
there is, not what to try. An operand that no operation matches, or whose last match says ``quantize = false``, stays in
floating point: what is fused into its consumer without being rounded in between, and what has no integer kernel::

    schema_version = 1
    description = "kernels of W8A8 products, activations with one scale"

    [[operations]]
    op = ["linear", "conv2d"]
    scheme = "uniform"
    bits = 8
    granularity = "tensor"

    [[operations]]
    op = ["linear", "conv2d"]
    operand = "weight"
    granularity = ["tensor", "channel"]
    symmetric = true

    [[operations]]              # written as one kernel, which rounds nothing in between
    producer = "gelu"
    quantize = false
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from autoq.optimization.space.field_types import FIT
from autoq.optimization.space.rules import Document, OperandRule

if TYPE_CHECKING:
    from autoq.graph.sites import Operand, Site
    from autoq.recipe import OperandConfig

Choices = dict[str, tuple[Any, ...]]
"""Values by field of ``OperandConfig``."""


class Target(Document):
    """What hardware, or a runtime, computes.

    Attributes:
        operations: which operands, and the values that they may have; later ones override earlier ones.
    """

    operations: tuple[OperandRule, ...] = Field(min_length=1)

    def allowed(self, site: Site, operand: Operand) -> Choices | None:
        """Return the values that an operand may have, field by field; None: it stays in floating point.

        A field that is not in it may have any value.
        """
        found: Choices = {}
        is_quantized = False
        for operation in self.operations:
            if operation.matches(site, operand):
                found |= operation.choices
                is_quantized = True if operation.quantize is None else operation.quantize
        return found if is_quantized else None

    def narrowed(self, choices: Mapping[str, tuple[Any, ...]], site: Site, operand: Operand) -> Choices | None:
        """Return what is left of a search space's choices for an operand; None: it stays in floating point.

        Where nothing of a field is left, the target's own values take its place.

        Args:
            choices: values by field, of a search space.
            site: of the model.
            operand: of the site.
        """
        allowed = self.allowed(site, operand)
        if allowed is None:
            return None
        return {
            field: tuple(value for value in values if value in allowed.get(field, values)) or allowed[field]
            for field, values in choices.items()
        }

    def objection(self, config: OperandConfig, fields: Collection[str], site: Site, operand: Operand) -> str | None:
        """Say what of a configuration the target does not have; None: it has all.

        Args:
            config: of the operand.
            fields: that its scheme reads.
            site: of the model.
            operand: of the site.
        """
        allowed = self.allowed(site, operand)
        if allowed is None:
            return "the target has it in floating point"
        for field in ("scheme", "bits", *fields):
            value = getattr(config, field)
            value = FIT if value is None else value
            if value not in allowed.get(field, (value,)):
                values = ", ".join(map(str, allowed[field]))
                return f"the target has {field} {values}, not {value}"
        return None
