"""Latency tables: measured times of sites at their options, added up.

The sum over sites is a model of a model's latency, not a measurement: what runs between sites is one constant, and
kernels that overlap or share caches are taken to run one after the other.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from autoq.errors import BudgetError
from autoq.files import sha256_hex, write_text
from autoq.graph.sites import Site
from autoq.recipe import FLOAT_BITS, OperandConfig, SiteConfig
from autoq.validation import did_you_mean, number_or_text, parse_json, read_text, validate

_NANOSECONDS = 1e6
"""In a millisecond."""
_OPERANDS: Final = ("input", "weight", "lhs", "rhs")


class LatencyRow(BaseModel):
    """The time of one option of a site, or of several sites alike.

    Attributes:
        site: glob over site names; ``*`` also matches dots. LayerNorms and softmaxes are reached by globs that do not
            end in ``*``, which stands for what multiplies.
        input: bits of this operand, 32 for floating point; None: the site has none, or any will do.
        weight: likewise.
        lhs: likewise.
        rhs: likewise.
        scheme: the scheme of all operands that are quantized; None: any.
        milliseconds: per image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str
    input: int | None = Field(default=None, ge=1, le=FLOAT_BITS)
    weight: int | None = Field(default=None, ge=1, le=FLOAT_BITS)
    lhs: int | None = Field(default=None, ge=1, le=FLOAT_BITS)
    rhs: int | None = Field(default=None, ge=1, le=FLOAT_BITS)
    scheme: str | None = None
    milliseconds: float = Field(ge=0, allow_inf_nan=False)

    def serves(self, config: Mapping[str, OperandConfig | None]) -> bool:
        """Tell whether a kernel of this width runs an option: every operand has at most its bits."""
        schemes = {each.scheme for each in config.values() if each is not None}
        if self.scheme is not None and schemes - {self.scheme}:
            return False
        widths = {name: getattr(self, name) for name in _OPERANDS}
        return all(
            widths[name] is None or widths[name] >= (FLOAT_BITS if each is None else each.bits)
            for name, each in config.items()
        )


class LatencyTable(BaseModel):
    """Times of the sites of a model at their options.

    An option takes the least time among the rows of its site that serve it: kernels run fewer bits than they have at
    their own speed. LayerNorm and softmax sites without rows take no time of their own.

    Attributes:
        schema_version: version of this file format.
        description: what was measured, and on what, for people.
        rest_milliseconds: what runs between sites, whatever the recipe.
        rows: times.

    >>> rows = [{"site": "head", "input": 8, "weight": 8, "milliseconds": 0.1}, {"site": "head", "milliseconds": 0.3}]
    >>> table = LatencyTable(schema_version=1, rows=rows)
    >>> eight = OperandConfig(scheme="uniform", bits=8)
    >>> table.site_nanoseconds("head", {"input": eight, "weight": eight})
    100000
    >>> table.site_nanoseconds("head", {"input": None, "weight": eight})
    300000
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1]
    description: str = ""
    rest_milliseconds: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    rows: tuple[LatencyRow, ...] = Field(min_length=1)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LatencyTable:
        """Read a table: JSON, or CSV with the columns of ``LatencyRow``.

        Raises:
            BudgetError: there is no such file, or it has a key or value that a table cannot have.
        """
        where = f"latency table {os.fspath(path)!r}"
        text = read_text(path, "latency table", BudgetError)
        if Path(path).suffix.lower() == ".csv":
            document: Any = {"schema_version": 1, "rows": _rows_of_csv(text)}
        else:
            document = parse_json(text, where, BudgetError)
        return validate(cls, document, where, BudgetError)

    def add_up(self, *, quantized: bool) -> float:
        """Return the milliseconds of all that the rows name, each at its fastest, or at its fastest in floating point.

        >>> rows = [{"site": "head", "input": 8, "weight": 8, "milliseconds": 1}, {"site": "head", "milliseconds": 3}]
        >>> table = LatencyTable(schema_version=1, rest_milliseconds=0.5, rows=rows)
        >>> table.add_up(quantized=False), table.add_up(quantized=True)
        (3.5, 1.5)
        """
        times: dict[str, list[float]] = {}
        for row in self.rows:
            if quantized or all(getattr(row, name) in (None, FLOAT_BITS) for name in _OPERANDS):
                times.setdefault(row.site, []).append(row.milliseconds)
        return self.rest_milliseconds + sum(min(each) for each in times.values())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as JSON.

        Raises:
            OSError: it cannot be written.
        """
        write_text(path, self.model_dump_json(indent=2, exclude_none=True) + "\n")

    @property
    def sha256(self) -> str:
        """Of what the times are; not of the description."""
        return sha256_hex([self.model_dump_json(exclude={"description"}).encode()])

    @property
    def rest_nanoseconds(self) -> int:
        """What runs between sites."""
        return round(self.rest_milliseconds * _NANOSECONDS)

    def _rows_of(self, site: str, *, multiplies: bool) -> list[LatencyRow]:
        """Return the rows that a site is reached by."""
        found = [row for row in self.rows if fnmatchcase(site, row.site)]
        return [row for row in found if multiplies or not row.site.endswith("*")]

    def site_nanoseconds(
        self, site: str, config: Mapping[str, OperandConfig | None], *, multiplies: bool = True
    ) -> int:
        """Look up the time of a site at an option.

        Args:
            site: its name.
            config: all its operands; None: in floating point.
            multiplies: False for a LayerNorm or softmax.

        Raises:
            BudgetError: no row serves the option.
        """
        own = self._rows_of(site, multiplies=multiplies)
        times = [row.milliseconds for row in own if row.serves(config)]
        if not times:
            known = sorted({row.site for row in self.rows})
            option = ", ".join(f"{name} {_shown(each)}" for name, each in config.items())
            hint = "" if own else did_you_mean(site, known)
            raise BudgetError(f"the latency table has no time for {site} ({option}): add a row with these bits.{hint}")
        return round(min(times) * _NANOSECONDS)

    def site_time(self, site: Site, config: SiteConfig) -> int:
        """Look up the time of a site of a model in nanoseconds; 0 for a LayerNorm or softmax without rows."""
        if not site.macs and not self._rows_of(site.name, multiplies=False):
            return 0
        operands = {operand.name: config.get(operand.name) for operand in site.operands}
        return self.site_nanoseconds(site.name, operands, multiplies=bool(site.macs))

    def nanoseconds(self, sites: Sequence[Site], recipe_sites: Mapping[str, SiteConfig]) -> int:
        """Add up the times of all sites, and of the rest."""
        return self.rest_nanoseconds + sum(self.site_time(site, recipe_sites.get(site.name, {})) for site in sites)


def _rows_of_csv(text: str) -> list[dict[str, Any]]:
    """Read the rows of a CSV table, empty cells left out."""
    rows = csv.DictReader(io.StringIO(text))
    return [{key: number_or_text(value) for key, value in row.items() if value not in (None, "")} for row in rows]


def _shown(config: OperandConfig | None) -> str:
    return "float" if config is None else f"{config.bits} bits, {config.scheme}"
