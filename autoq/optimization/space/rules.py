"""Search spaces: TOML files whose rules say what a search may choose for each operand.

A space names no model. Its rules are matched against a model's sites (``autoq.optimization.space.resolve_space``),
later rules override earlier ones field by field, a list is a choice that the search decides and a scalar is fixed::

    schema_version = 1
    description = "weights and activations at 4 or 8 bits"

    [[rules]]
    operand = "weight"
    scheme = "uniform"
    granularity = "channel"
    bits = [4, 8]

    [[rules]]
    op = ["linear", "conv2d"]
    operand = "input"
    scheme = "instance_groups"
    bits = [4, 8]
    groups = [1, 4]

    [[rules]]                   # overrides the rule above at one place
    site = "head*"
    operand = "input"
    bits = 8

    [[ties]]
    match = "*.attn.qkv:*"      # site and operand, as in blocks.3.attn.qkv:weight
    fields = ["bits"]
    by = "site"

A rule matches where all of its ``site`` (globs), ``op``, ``operand``, ``producer`` (exact names) and ``position`` do;
what it leaves out matches everything, with one exception: sites that multiply nothing (LayerNorms, softmaxes,
residual sums and outputs), which only integer-only methods quantize, are reached by rules that name them in ``op``.
Operands that no rule gives a scheme stay in floating point.
"""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from autoq.files import sha256_hex
from autoq.optimization.space.field_types import (
    CONFIG_FIELDS,
    Bits,
    Fields,
    Flag,
    Globs,
    Granularities,
    Groups,
    HadamardBlocks,
    LogBases,
    Operands,
    Ops,
    Overflows,
    Producers,
    Schemes,
    Symmetric,
    TieScope,
)

if TYPE_CHECKING:
    from autoq.graph.sites import Operand, Site


class Frozen(BaseModel):
    """Part of a document: neither changed nor given keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OperandRule(Frozen):
    """Which kinds of operands, and the values that they may take; every set field is a tuple of one or more values.

    Attributes:
        op: kinds of site.
        operand: names of operands.
        producer: what computed the operand; ``parameter`` for weights.
        quantize: false leaves the operands in floating point, true takes that back.
        scheme: quantizers, see ``OperandConfig`` for this and the fields below.
        bits: code widths; a scheme of one width, such as ``mxfp4``, has its own whatever is listed.
        granularity: sharing of parameters; where a model's operand has no such axis, ``tensor`` takes its place.
        symmetric: whether zero points are fixed at zero.
        groups: group counts; more than an operand has channels (or rows) are as many as it has.
        log_base_numerator: AdaLog's q; ``"fit"`` leaves it to calibration.
        overflow: where logarithmic quantizers put values below their last level.
        hadamard_block: channels that ``hadamard`` mixes; as many as divide those of an operand where they are fewer.
    """

    op: Ops | None = None
    operand: Operands | None = None
    producer: Producers | None = None
    quantize: Flag | None = None
    scheme: Schemes | None = None
    bits: Bits | None = None
    granularity: Granularities | None = None
    symmetric: Symmetric | None = None
    groups: Groups | None = None
    log_base_numerator: LogBases | None = None
    overflow: Overflows | None = None
    hadamard_block: HadamardBlocks | None = None

    @model_validator(mode="after")
    def _sets_something(self) -> Self:
        if self._sets_nothing():
            raise ValueError(f"sets nothing; give it quantize or one of {', '.join(CONFIG_FIELDS)}")
        return self

    def _sets_nothing(self) -> bool:
        return self.quantize is None and not self.choices

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """The fields that this rule sets, with their choices."""
        return {name: value for name in CONFIG_FIELDS if (value := getattr(self, name)) is not None}

    def matches(self, site: Site, operand: Operand) -> bool:
        """Tell whether this is about an operand, by its kind."""
        if self.op is None and not site.macs:
            return False
        return (
            (self.op is None or site.op in self.op)
            and (self.operand is None or operand.name in self.operand)
            and (self.producer is None or operand.producer in self.producer)
        )


class Rule(OperandRule):
    """A rule of a search space, which may be about single sites of a model.

    Attributes:
        site: globs over site names; ``*`` also matches dots.
        position: ``first`` or ``last`` site with weights, in the order of the forward pass: the patch embedding and the
            classifier, whatever a model calls them.
        group_size: in place of ``groups``, the most channels of a static group (``granularity = "group"``), as integer
            kernels have them: 32, 64, 128. Groups of 100 channels are as long each where 200 are divided by 128.
    """

    site: Globs | None = None
    position: Literal["first", "last"] | None = None
    group_size: Groups | None = None

    @model_validator(mode="after")
    def _says_groups_once(self) -> Self:
        if self.group_size is not None and self.groups is not None:
            raise ValueError("gives both groups and group_size: leave one out")
        return self

    def _sets_nothing(self) -> bool:
        return super()._sets_nothing() and self.group_size is None

    def choices_for(self, operand: Operand) -> dict[str, tuple[Any, ...]]:
        """Return the fields that this rule sets for an operand, whose channels group sizes divide."""
        if self.group_size is None:
            return self.choices
        axis = operand.layout.group_axis
        channels = 1 if axis is None else operand.shape[axis]
        counts = dict.fromkeys(-(-channels // size) for size in self.group_size)
        return self.choices | {"groups": tuple(counts)}


class Tie(Frozen):
    """Decisions that are one. Of several ties that match a decision, the last one counts.

    Attributes:
        match: globs over operand names, such as ``*.attn.qk:*``.
        fields: the fields that are tied; each field is a decision of its own.
        by: one decision for each ``site``, for each ``operand`` name (all weights, all inputs, …), or for ``all``.
    """

    match: Globs
    fields: Fields
    by: TieScope

    def binds(self, site: str, operand: str, field: str) -> bool:
        """Tell whether a field of an operand is tied."""
        return field in self.fields and any(fnmatchcase(f"{site}:{operand}", glob) for glob in self.match)

    def decision(self, site: str, operand: str) -> str:
        """Return the name of the decision that is made of an operand's, without the field."""
        if self.by == "site":
            return f"{site}:*"
        globs = ",".join(self.match)
        return globs if self.by == "all" else f"{globs.rsplit(':', 1)[0]}:{operand}"


class Document(Frozen):
    """A file that users write.

    Attributes:
        schema_version: version of the file format.
        description: one line for people.
        name: where it came from, for messages: a path or the name of a shipped file.
    """

    schema_version: Literal[1]
    description: str = ""
    name: str = "document"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the document means: neither its name nor its description."""
        document = self.model_dump(exclude={"name", "description"}, exclude_none=True)
        return sha256_hex([json.dumps(document, sort_keys=True).encode()])


class SearchSpace(Document):
    """What a search may choose, for any model.

    Attributes:
        rules: later ones override earlier ones field by field.
        ties: decisions that are taken together.
    """

    rules: tuple[Rule, ...] = Field(min_length=1)
    ties: tuple[Tie, ...] = ()
