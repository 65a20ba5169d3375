"""Search spaces: TOML files whose rules say what a search may choose for each operand.

A space names no model. Its rules are matched against a model's sites (``SearchSpace.resolve``), later rules override
earlier ones field by field, a list is a choice that the search decides and a scalar is fixed::

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
import os
import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from autoq.errors import SpaceError
from autoq.files import did_you_mean, sha256_hex
from autoq.search.space.choices import (
    CONFIG_FIELDS,
    Bits,
    Fields,
    Flag,
    Globs,
    Granularities,
    Groups,
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
    from autoq.graph.sites import Site
    from autoq.search.space.decisions import ResolvedSpace


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

    def resolve(self, sites: Sequence[Site]) -> ResolvedSpace:
        """The decisions that this space leaves open for a model.

        Args:
            sites: of the model, in the order of its forward pass.

        Raises:
            SpaceError: an operand is given fields but no scheme or no bits, tied decisions offer different choices, or
                nothing at all is quantized.
        """
        from autoq.search.space.resolution import resolve

        return resolve(self, sites)


def shipped_spaces() -> list[str]:
    """Names of the spaces that come with autoq."""
    folder = resources.files("autoq.search") / "search_spaces"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_space(name_or_path: str | os.PathLike[str]) -> SearchSpace:
    """Read a search space: a TOML file, or the name of one that comes with autoq.

    Raises:
        SpaceError: there is no such file or name, it is not TOML, or a key or value is not one a space can have.
    """
    name = os.fspath(name_or_path)
    path = Path(name)
    is_path = isinstance(name_or_path, Path) or path.suffix == ".toml" or path.name != name
    if not is_path and name in shipped_spaces():
        text = (resources.files("autoq.search") / "search_spaces" / f"{name}.toml").read_text(encoding="utf-8")
        return parse_space(text, name)
    if not is_path and not path.is_file():
        known = shipped_spaces()
        near = did_you_mean(name, known)
        raise SpaceError(f"unknown search space {name!r}; give a .toml file or one of {', '.join(known)}.{near}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SpaceError(f"cannot read search space {name!r}: {reason}") from error
    return parse_space(text, name)


def parse_space(text: str, name: str = "space") -> SearchSpace:
    """A search space from TOML text; ``name`` is what messages call it.

    Raises:
        SpaceError: the text is not TOML, or a key or value is not one a space can have.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpaceError(f"search space {name!r} is not TOML: {error}") from error
    if "name" in document:
        raise SpaceError(f"search space {name!r}: unknown key 'name'; a space is called after its file")
    try:
        return SearchSpace.model_validate(document | {"name": name})
    except ValidationError as error:
        raise SpaceError(f"search space {name!r}: {_describe(error, text)}") from error


def _describe(error: ValidationError, text: str) -> str:
    """The first complaint on one line, with its place: ``rule 3 (line 17): bits: expected …``."""
    # A mistyped key may also leave one missing; the typo is what helps.
    first = min(error.errors(), key=lambda complaint: complaint["type"] != "extra_forbidden")
    place, keys, model = "", list(first["loc"]), SearchSpace.model_fields.keys()
    if len(keys) > 1 and keys[0] in ("rules", "ties") and isinstance(keys[1], int):
        header, number = str(keys[0]), keys[1]
        lines = [
            text.count("\n", 0, found.end()) + 1 for found in re.finditer(rf"(?m)^\s*\[\[\s*{header}\s*\]\]", text)
        ]
        line = f" (line {lines[number]})" if number < len(lines) else ""
        place = f"{header.removesuffix('s')} {number + 1}{line}: "
        keys, model = keys[2:], (Rule if header == "rules" else Tie).model_fields.keys()
    key = str(keys[0]) if keys else ""
    if first["type"] == "extra_forbidden":
        return f"{place}unknown key {key!r}.{did_you_mean(key, set(model) - {'name'})}"
    if first["type"] == "missing":
        return f"{place}{key} is missing"
    message = (
        str(first["ctx"]["error"]) if first["type"] == "value_error" else f"{first['msg']}, got {first['input']!r}"
    )
    return place + (f"{key}: " if key else "") + message
