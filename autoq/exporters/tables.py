"""Tables for people: one row an operand."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import ClassVar, NoReturn

from autoq.exporters._base import BaseExporter, ExportSource, Written
from autoq.quantizers import BaseQuantizer

COLUMNS = ("site", "operand", "scheme", "bits", "granularity", "settings", "elements", "scale", "zero point")


class _TableExporter(BaseExporter):
    """Writes what each operand gets; nothing reads it back."""

    reader: ClassVar[str] = "people, spreadsheets"
    expresses: ClassVar[str] = "every recipe"
    loses: ClassVar[str] = "codes, and scales where there are several: their range is given"

    def can_run(self, source: ExportSource) -> bool:  # noqa: ARG002
        """Tell that nothing runs a table."""
        return False

    def load(self, source: ExportSource, path: Path) -> NoReturn:
        """Refuse: see :meth:`can_run`."""
        raise NotImplementedError


class CsvExporter(_TableExporter):
    """Writes comma-separated values."""

    name: ClassVar[str] = "csv"
    suffix: ClassVar[str] = ".csv"

    def write(self, source: ExportSource, path: Path) -> Written:
        """Write the table, its first line the names of columns."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *table_rows(source)])
        path.write_text(text.getvalue(), encoding="utf-8")
        return Written()


class MarkdownExporter(_TableExporter):
    """Writes a page: what the recipe is, costs and loses, and the table."""

    name: ClassVar[str] = "markdown"
    suffix: ClassVar[str] = ".md"
    reader: ClassVar[str] = "people, model cards"

    def write(self, source: ExportSource, path: Path) -> Written:
        """Write the page."""
        lines = [COLUMNS, tuple("---" for _ in COLUMNS), *table_rows(source)]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        path.write_text("\n".join([*_header(source), "", table, ""]), encoding="utf-8")
        return Written()


def table_rows(source: ExportSource) -> list[tuple[str, ...]]:
    """Return the cells of every quantized operand, in execution order."""
    codes = source.module.codes
    return [
        (*key, *_cells(quantizer, codes[key].numel() if key in codes else None))
        for key, quantizer in source.module.quantizers.items()
    ]


def _cells(quantizer: BaseQuantizer, elements: int | None) -> tuple[str, ...]:
    config = quantizer.config.to_json()
    scheme, bits = config.pop("scheme"), config.pop("bits")
    granularity = config.pop("granularity", "tensor")
    settings = ", ".join(f"{name}={value}" for name, value in config.items())
    grid = quantizer.code_grid()
    ranges = ("", "") if grid is None else tuple(_range(value.min(), value.max()) for value in grid)
    return scheme, str(bits), granularity, settings, "" if elements is None else str(elements), *ranges


def _range(least: object, greatest: object) -> str:
    """Write one number, or the range that several have."""
    shown = [f"{float(value):.6g}" for value in (least, greatest)]  # type: ignore[arg-type]
    return shown[0] if shown[0] == shown[1] else "…".join(shown)


def _header(source: ExportSource) -> list[str]:
    """Return the lines above the table."""
    from autoq.units import format_bops, format_bytes, format_kl

    recipe = source.module.recipe
    lines = [f"# {recipe.model.name}, quantized", "", f"- weights: SHA-256 {recipe.model.weights_sha256[:12]}"]
    if recipe.method is not None:
        lines.append(f"- method: {recipe.method}")
    if recipe.cost is not None:
        alive = recipe.cost.activation_bytes
        activations = "" if alive is None else f", live activations {format_bytes(alive)}"
        weights = format_bytes(recipe.cost.weight_bytes)
        lines.append(f"- cost: {format_bops(recipe.cost.bops)}, weights {weights}{activations}")
    if recipe.score is not None:
        lines.append(f"- KL: {format_kl(recipe.score.kl_nats)} nats over {recipe.score.images} images")
        lines += [f"- {name}: {value:.2f}" for name, value in recipe.score.metrics.items()]
    if recipe.rotated:
        lines.append(f"- rotated: {', '.join(recipe.rotated)}")
    if recipe.centred:
        lines.append(f"- centred: {', '.join(recipe.centred)}")
    if recipe.reparameterized:
        lines.append(f"- rescaled: {', '.join(recipe.reparameterized)}")
    return lines
