"""Write a recipe in a format, run what was written, and say how it went."""

from __future__ import annotations

import errno
import os
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autoq.errors import AutoqError, ExportError, RecipeError, RunError
from autoq.exporters._base import BaseExporter, ExportSource
from autoq.exporters.checking import Agreement, compare
from autoq.graph.insert import OperandKey
from autoq.optimization.space import Target
from autoq.recipe import Recipe

_MOST_NAMED = 4
"""Sites that a message names."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with the quantized model.

    Attributes:
        path: of the file or folder.
        format: its name.
        bytes: of it and of what lies beside it.
        seconds: that writing took, without the check.
        agreement: with autoq on calibration images; None for a format that nothing runs, or where the model of a recipe
            is not at hand.
        left_in_float: operands (``site:operand``) that the format cannot hold.
        plain_operators: operands that are arithmetic in floating point in the file, and why.
        session_options: to set where the file is run.

    Examples:
        >>> import autoq, pathlib, tempfile
        >>> quantized = autoq.quantize("vit_digits", "rtn", images="digits", bits="w8a8", calib_images=16)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = autoq.export(quantized, pathlib.Path(folder) / "quantized.json", check_images=8)
        >>> report.format, report.agreement.images, report.left_in_float
        ('recipe', 8, ())
    """

    path: Path
    format: str
    bytes: int
    seconds: float
    agreement: Agreement | None
    left_in_float: tuple[str, ...] = ()
    plain_operators: Mapping[str, str] = field(default_factory=dict)
    session_options: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        document = asdict(self) | {"path": os.fspath(self.path), "left_in_float": list(self.left_in_float)}
        agreement = document.pop("agreement") or dict.fromkeys(Agreement.__dataclass_fields__)
        return document | agreement


def write_export(
    exporter: BaseExporter,
    source: ExportSource,
    path: Path,
    *,
    allow_float: bool = False,
    target: Target | None = None,
) -> ExportReport:
    """Write a source in a format, and run what was written before it gets its name.

    Args:
        exporter: of the format.
        source: what to write.
        path: of the file or folder.
        allow_float: leave operands that the format cannot hold, or the target does not have, in floating point.
        target: what there is where the file is to run; None: everything.

    Raises:
        ExportError: the format cannot hold some operands, or the target does not have them (and ``allow_float`` is
            False), or a package is missing.
        RunError: what was written cannot be run; nothing is left of it.
        OSError: a file cannot be written; what was there before is still there.
    """
    exporter.require_packages()
    exporter.check_path(source, path)
    if not exporter.is_recipe and _is_recipe(path):
        raise ExportError(
            f"{os.fspath(path)!r} is a recipe, which format {exporter.name!r} would replace: choose another name"
        )
    # Found out now, not when the other files have their names.
    if path.is_dir() and (exporter.suffix or any(path.iterdir())):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    left = exporter.inexpressible(source) | ({} if target is None else excluded(source, target))
    if left:
        if not allow_float:
            raise ExportError(_refusal(exporter, source, left, target))
        source = source.without(list(left))
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        started = time.perf_counter()
        written = exporter.write(source, temporary)
        seconds = time.perf_counter() - started
        agreement = _checked(exporter, source, temporary)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        _move(Path(folder), path)
    return ExportReport(
        path=path,
        format=exporter.name,
        bytes=size,
        seconds=seconds,
        agreement=agreement,
        left_in_float=tuple(map(_named, left)),
        plain_operators={_named(key): reason for key, reason in written.plain_operators.items()},
        session_options=written.session_options,
    )


def excluded(source: ExportSource, target: Target) -> dict[OperandKey, str]:
    """Return the operands that a target does not have as a source has them, and why.

    Raises:
        ExportError: the model, which tells what they are, is not at hand.
    """
    sites = source.architecture.traced.sites_by_name
    found = {}
    for (site, operand), quantizer in source.module.quantizers.items():
        fields = type(quantizer).config_fields
        reason = target.objection(quantizer.config, fields, sites[site], sites[site].operand(operand))
        if reason is not None:
            found[site, operand] = reason
    return found


def _checked(exporter: BaseExporter, source: ExportSource, path: Path) -> Agreement | None:
    """Run what was written, and compare it with the quantized model."""
    if not exporter.can_run(source):
        return None
    try:
        return compare(source.module, source.images[: exporter.most_checked], exporter.load(source, path))
    except AutoqError:
        raise
    except Exception as error:  # whatever a runtime raises
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RunError(f"the exported {exporter.name} file does not run: {lines[0]}; nothing was written") from error


def _is_recipe(path: Path) -> bool:
    """Whether a file is a recipe or a bundle, which what is exported may be made from."""
    if not path.is_file():
        return False
    if zipfile.is_zipfile(path):  # as programs of torch.export are, too
        with zipfile.ZipFile(path) as archive:
            return Recipe.FILE in archive.namelist()
    try:
        Recipe.load(path)
    except RecipeError:
        return False
    return True


def _move(folder: Path, path: Path) -> None:
    """Give everything in a folder its name beside ``path``; ``path`` itself last."""
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name == path.name):
        for file in (entry, *entry.rglob("*")) if entry.is_dir() else (entry,):
            if file.is_file():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
        entry.replace(path.parent / entry.name)


def _refusal(
    exporter: BaseExporter, source: ExportSource, left: Mapping[OperandKey, str], target: Target | None
) -> str:
    """Name the operands that a format cannot hold for a target, with their schemes and the reasons."""
    sites = source.module.recipe.sites
    by_reason: dict[str, list[str]] = {}
    for (site, operand), reason in left.items():
        shown = f"{site}:{operand} ({sites[site][operand].scheme})"
        by_reason.setdefault(reason, []).append(shown)
    listed = "; ".join(f"{_shortened(names)}: {reason}" for reason, names in by_reason.items())
    there = "" if target is None else f" for target {target.name!r}"
    return f"format {exporter.name!r}{there} cannot hold {listed}; use --allow-float to leave these in floating point"


def _shortened(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _MOST_NAMED
    return ", ".join(listed[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _named(key: OperandKey) -> str:
    return ":".join(key)
