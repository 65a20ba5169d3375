"""The table of sensitivities, and its file."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from autoq.errors import RunDirectoryError, RunError
from autoq.files import write_text
from autoq.recipe import OperandConfig

Option = tuple[str, str, OperandConfig]
"""(site, operand, configuration)."""

_FIELDS = tuple(OperandConfig.model_fields)
COLUMNS = ("site", "operand", *_FIELDS, "loss", "measured", "proxy", "images")
"""Of the table as comma-separated values."""


@dataclass(frozen=True)
class Sensitivity:
    """The loss of one option alone.

    Attributes:
        site: name of the site.
        operand: name of the operand.
        config: how it is quantized, in canonical form.
        loss: in the unit of the table's proxy, at least 0; infinite where the model's output is not finite.
        measured: False where the loss is interpolated between bit-widths.
    """

    site: str
    operand: str
    config: OperandConfig
    loss: float
    measured: bool = True

    @property
    def option(self) -> Option:
        """What was quantized, and how."""
        return self.site, self.operand, self.config


@dataclass(frozen=True)
class SensitivityTable:
    """Losses of operands at their options, each alone.

    Attributes:
        proxy: what the losses are; a name in ``autoq.sensitivity.proxies.PROXIES``.
        images: how many images they are means over.
        rows: one for each option.
    """

    proxy: str
    images: int
    rows: tuple[Sensitivity, ...]

    def loss(self, site: str, operand: str, config: OperandConfig) -> float:
        """Return the loss of one option; ``config`` is in canonical form.

        Raises:
            RunError: the table does not have this option.
        """
        try:
            return self._losses[site, operand, config]
        except KeyError:
            raise RunError(
                f"the sensitivities have no {config.to_json()} of {site}:{operand}: measure them again"
            ) from None

    def covers(self, options: Iterable[Option], proxy: str) -> bool:
        """Return whether the table has the losses of all ``options`` by this proxy."""
        return self.proxy == proxy and self._losses.keys() >= set(options)

    @cached_property
    def _losses(self) -> dict[Option, float]:
        return {row.option: row.loss for row in self.rows}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write comma-separated values, atomically; floats read back equal.

        Raises:
            OSError: they cannot be written; what was there before is still there.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in self.rows:
            config = [_cell(getattr(row.config, field)) for field in _FIELDS]
            measured = _cell(row.measured)
            writer.writerow([row.site, row.operand, *config, repr(row.loss), measured, self.proxy, self.images])
        write_text(path, text.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SensitivityTable:
        """Read what ``save`` wrote.

        Raises:
            RunDirectoryError: the file cannot be read, or is no such table.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise RunDirectoryError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise _no_table(path, "it is not UTF-8 text") from error
        reader = csv.DictReader(io.StringIO(text))
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise _no_table(path, f"its columns are not {','.join(COLUMNS)}")
        rows: list[Sensitivity] = []
        about: set[tuple[str, int]] = set()
        try:
            for values in reader:
                rows.append(_row_of(values))
                about.add((values["proxy"], int(values["images"])))
        except (ValueError, TypeError, csv.Error) as error:  # pydantic's errors are ValueErrors
            raise _no_table(path, f"line {reader.line_num} cannot be read") from error
        if len(about) != 1:
            raise _no_table(path, "it mixes proxies or images" if about else "it has no rows")
        return cls(*about.pop(), tuple(rows))


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else value


def _row_of(values: Mapping[str, str]) -> Sensitivity:
    config = OperandConfig.model_validate({field: values[field] or None for field in _FIELDS})
    loss = float(values["loss"])
    if math.isnan(loss) or loss < 0 or values["measured"] not in ("true", "false"):
        raise ValueError
    return Sensitivity(values["site"], values["operand"], config, loss, values["measured"] == "true")


def _no_table(path: str | os.PathLike[str], reason: str) -> RunDirectoryError:
    return RunDirectoryError(f"{os.fspath(path)!r} is no table of sensitivities: {reason}; delete it")
