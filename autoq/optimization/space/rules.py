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
what it leaves out matches everything, with one exception: LayerNorm and softmax sites, which only integer-only methods
quantize, are reached by rules that name them in ``op``. Operands that no rule gives a scheme stay in floating point.
"""

from __future__ import annotations

import json
from typing import Any, Literal

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


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Frozen):
    """Which operands, and the values that they may take; every set field is a tuple of one or more choices.

    Attributes:
        site: globs over site names; ``*`` also matches dots.
        op: kinds of site.
        operand: names of operands.
        producer: what computed the operand; ``parameter`` for weights.
        position: ``first`` or ``last`` site with weights, in the order of the forward pass: the patch embedding and the
            classifier, whatever a model calls them.
        quantize: false leaves the operands in floating point, true takes that back.
        scheme: quantizers, see ``OperandConfig`` for this and the fields below.
        bits: code widths.
        granularity: sharing of parameters; where a model's operand has no such axis, ``tensor`` takes its place.
        symmetric: whether zero points are fixed at zero.
        groups: group counts; more than an operand has channels (or rows) are as many as it has.
        log_base_numerator: AdaLog's q; ``"fit"`` leaves it to calibration.
        overflow: where logarithmic quantizers put values below their last level.
        hadamard_block: channels that ``hadamard`` mixes; as many as divide those of an operand where they are fewer.
    """

    site: Globs | None = None
    op: Ops | None = None
    operand: Operands | None = None
    producer: Producers | None = None
    position: Literal["first", "last"] | None = None
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
    def _sets_something(self) -> Rule:
        if self.quantize is None and not self.choices:
            raise ValueError(f"sets nothing; give it quantize or one of {', '.join(CONFIG_FIELDS)}")
        return self

    @property
    def choices(self) -> dict[str, tuple[Any, ...]]:
        """The fields that this rule sets, with their choices."""
        return {name: value for name in CONFIG_FIELDS if (value := getattr(self, name)) is not None}


class Tie(_Frozen):
    """Decisions that are one. Of several ties that match a decision, the last one counts.

    Attributes:
        match: globs over operand names, such as ``*.attn.qk:*``.
        fields: the fields that are tied; each field is a decision of its own.
        by: one decision for each ``site``, for each ``operand`` name (all weights, all inputs, …), or for ``all``.
    """

    match: Globs
    fields: Fields
    by: TieScope


class SearchSpace(_Frozen):
    """What a search may choose, for any model.

    Attributes:
        schema_version: version of this file format.
        description: one line for people.
        rules: later ones override earlier ones field by field.
        ties: decisions that are taken together.
        name: where the space came from, for messages: a path or the name of a shipped file.
    """

    schema_version: Literal[1]
    description: str = ""
    rules: tuple[Rule, ...] = Field(min_length=1)
    ties: tuple[Tie, ...] = ()
    name: str = "space"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the space means: neither its name nor its description."""
        document = self.model_dump(exclude={"name", "description"}, exclude_none=True)
        return sha256_hex([json.dumps(document, sort_keys=True).encode()])
