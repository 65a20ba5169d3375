"""Results of benchmarks: files of one JSON object a line, written as soon as it is known and not measured again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoq.errors import InputError


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read a file of results.

    Raises:
        InputError: it cannot be read, or a line is no JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the results in {str(path)!r}: {error}") from error
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict):
            raise InputError(f"line {number} of {str(path)!r} is not a result: mend or remove it")
        entries.append(entry)
    return entries


def open_results(path: Path) -> list[dict[str, Any]]:
    """Make a file of results if need be, sure that more can be appended before anything is measured, and read it.

    Raises:
        InputError: it cannot be read or written, or a line is no JSON object.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise InputError(f"cannot write results to {str(path)!r}: {error}") from error
    return read_results(path)


def append_result(path: Path, entry: Mapping[str, Any]) -> None:
    """Write one more line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")
