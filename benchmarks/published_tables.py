"""An accuracy table of a paper once more: the authors' figures, ours by their protocol, and the difference.

    python -m benchmarks.published_tables studies/imagenet/adalog.toml --data imagenet/train --eval-data imagenet/val

Calibration images are as many as the paper's, from ``--data``, chosen by a seed; accuracy is on all of ``--eval-data``.
Every finished measurement is a line of ``--results``, and is not measured again. ``--random-weights`` tries the whole
way without the weights; its accuracies mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch

from autoq.errors import AutoqError, InputError
from autoq.methods import BitWidths, MethodOptions, create_method
from autoq.methods._base import PROTOCOLS
from autoq.runs.quantize import QuantizeSettings, quantize
from autoq.runs.session import Session
from benchmarks.methods import full_precision
from benchmarks.result_lines import append_result, open_results


@dataclass(frozen=True)
class Row:
    """One figure of a paper.

    Attributes:
        model: by the name that timm has.
        full_precision: top-1 accuracy in percent.
        bits: as in ``BitWidths.parse``.
        top1: accuracy of the quantized model in percent.
    """

    model: str
    full_precision: float
    bits: str
    top1: float


@dataclass(frozen=True)
class Table:
    """The figures of a paper.

    Attributes:
        method: name of the preset.
        source: where the figures are from.
        rows: model by model.
    """

    method: str
    source: str
    rows: tuple[Row, ...]


def read_table(path: Path) -> Table:
    """Read a file of ``studies/imagenet``.

    Raises:
        InputError: it is not one.
    """
    try:
        read = tomllib.loads(path.read_text(encoding="utf-8"))
        rows = [
            Row(model, float(figures["full_precision"]), bits, float(top1))
            for model, figures in read["models"].items()
            for bits, top1 in figures.items()
            if bits != "full_precision"
        ]
        for row in rows:
            BitWidths.parse(row.bits)
        create_method(read["method"])
        return Table(read["method"], read["source"], tuple(rows))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, AttributeError, TypeError, ValueError) as error:
        raise InputError(f"cannot read the table {str(path)!r}: {error}") from error
    except KeyError as error:
        raise InputError(f"the table {str(path)!r} has no {error.args[0]!r}") from error


class Measurements:
    """Figures that were measured, in a file of a line each."""

    def __init__(self, path: Path | None) -> None:
        """Read what is there; None: keep nothing."""
        self._path = path
        entries = [] if path is None else open_results(path)
        self._known = {_key(entry): entry["top1_percent"] for entry in entries}

    def of(self, entry: dict[str, Any], measure: Callable[[], float]) -> float:
        """Return the accuracy in percent of what ``entry`` describes; measure it if it is not known."""
        if _key(entry) not in self._known:
            found = measure()
            self._known[_key(entry)] = found
            if self._path is not None:
                append_result(self._path, entry | {"top1_percent": found})
        return float(self._known[_key(entry)])


def _key(entry: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in entry.items() if name != "top1_percent"}, sort_keys=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing and print the table as Markdown, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--data", required=True, help="calibration images: the training set")
    parser.add_argument("--eval-data", required=True, help="labelled images: the validation set")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="published")
    parser.add_argument("--models", default="*", metavar="GLOB", help="these alone")
    parser.add_argument("--bits", nargs="*", help="these alone")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--images", type=int, help="calibration images, if not as many as the paper's")
    parser.add_argument("--iterations", type=int, help="of a reconstruction, if not as many as the paper's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--results", type=Path, help="file of a line a measurement")
    options = parser.parse_args(arguments)
    try:
        _reproduce(read_table(options.table), options)
    except AutoqError as error:
        print(f"published_tables: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, InputError) else 1) from error


def _reproduce(table: Table, options: argparse.Namespace) -> None:
    rows = [
        row for row in table.rows if fnmatch(row.model, options.models) and row.bits in (options.bits or [row.bits])
    ]
    if not rows:
        raise InputError(f"no row of the table is of models {options.models!r} and bits {options.bits or 'any'}")
    measured = _Measured(table.method, options)
    print(f"Figures of {table.source}. Ours: protocol {options.protocol}, {options.seeds} seeds; {_machine()}.\n")
    print("| model | bits | full precision: paper, ours | paper | ours | difference |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        full, found = measured.full_precision(row.model), measured.quantized(row.model, row.bits)
        ours = statistics.mean(found)
        spread = f" ± {statistics.pstdev(found):.2f}" if len(found) > 1 else ""
        print(
            f"| {row.model} | {row.bits} | {row.full_precision:.2f}, {full:.2f} | {row.top1:.2f} | {ours:.2f}{spread} "
            f"| {ours - row.top1:+.2f} |",
            flush=True,
        )


class _Measured:
    """Accuracies of models, one open at a time."""

    def __init__(self, method: str, options: argparse.Namespace) -> None:
        self._options, self._measurements = options, Measurements(options.results)
        self._method = create_method(method, MethodOptions(protocol=options.protocol, iterations=options.iterations))
        self._session: Session | None = None

    def full_precision(self, model: str) -> float:
        """Return the accuracy in percent in full precision."""
        session = self._open(model)

        def measure() -> float:
            return full_precision(session, session.labelled_images(self._options.eval_data))

        return self._measurements.of(self._common(session), measure)

    def quantized(self, model: str, bits: str) -> list[float]:
        """Return the accuracy in percent at some bits with every seed."""
        session, options = self._open(model), self._options
        entry = self._common(session) | {"method": self._method.name, "bits": bits, **self._method.options.given()}
        entry |= {"data": options.data, "images": options.images}

        def measure(seed: int) -> float:
            with tempfile.TemporaryDirectory() as folder:
                settings = QuantizeSettings(options.data, folder, options.images, seed, options.eval_data)
                score = quantize(session, self._method, BitWidths.parse(bits), settings).score
            assert score is not None
            return score.metrics["top1_percent"]

        return [self._measurements.of(entry | {"seed": seed}, partial(measure, seed)) for seed in range(options.seeds)]

    def _open(self, model: str) -> Session:
        if self._session is None or self._session.reference.name != model:
            self._session = None  # the last one's memory is free before the next is loaded
            pretrained = not self._options.random_weights
            self._session = Session.open(model, pretrained=pretrained, device=self._options.device)
        return self._session

    def _common(self, session: Session) -> dict[str, Any]:
        reference = session.reference
        return {"model": reference.name, "weights": reference.weights_sha256, "eval_data": self._options.eval_data}


def _machine() -> str:
    return f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"


if __name__ == "__main__":
    main()
