"""Every published method at uniform bits: top-1 and discrepancy, mean and spread over seeds.

    python -m benchmarks.methods --model local-dir:vit_c10 --data cifar10/calib --eval-data cifar10/val \
        --results docs/methods.jsonl > docs/methods.md

A seed chooses the calibration images. Results are kept line by line in ``--results``; what is there already is not
measured again.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import timm
import torch

from autoq.methods import BitWidths, MethodOptions, create_method
from autoq.methods.igq_vit import IgqVit
from autoq.recipe import OperandConfig
from autoq.runs.images import LabelledImages
from autoq.runs.quantize import QuantizeSettings, quantize
from autoq.runs.session import Session
from autoq.scoring import measure_accuracy
from autoq.units import format_bops, format_kl
from benchmarks.result_lines import append_result, open_results

PROTOCOLS = ("published", "autoq")
GROUPS = (1, 2, 4, 8, 12, 16)
OBSERVERS = ("min_max", "ema", "percentile", "omse")


@dataclass(frozen=True)
class Row:
    """One line of a table: a method with its options at one width."""

    label: str
    method: str
    bits: str
    options: MethodOptions = field(default_factory=MethodOptions)


class EachChannel(IgqVit):
    """The paper's upper bound: every channel of a layer input, and every row of an attention map, has its own range."""

    name: ClassVar[str] = "each-channel"

    def layer_input(self, bits: int) -> OperandConfig:
        """Static: a channel is the same channel in every image."""
        return OperandConfig(scheme="uniform", bits=bits, granularity="channel")

    def attention_map(self, bits: int) -> OperandConfig:
        """As many groups as rows; which row has which range differs from image to image."""
        return OperandConfig(scheme="instance_groups", bits=bits, groups=1 << 16)


def rows() -> dict[str, list[Row]]:
    """The tables, by title."""
    plain = ("rtn", "ptq4vit", "repq-vit", "igq-vit", "adalog")
    widths = ("w8a8", "w6a6", "w4a4", "w3a3")
    fully = [
        Row(
            f"fq-vit, {observer}{'' if on else ', without PTF and LIS'}",
            "fq-vit",
            bits,
            MethodOptions(observer=observer, ptf=on, lis=on),
        )
        for on, bits in ((True, "w8a8s4"), (True, "w8a8"), (False, "w8a8"))
        for observer in OBSERVERS
    ]
    groups = [
        Row(f"igq-vit, {count} group{'s' * (count > 1)}", "igq-vit", "w4a4", MethodOptions(groups=count))
        for count in GROUPS
    ]
    groups.append(Row("a range for each channel and row", EachChannel.name, "w4a4"))
    return {
        "Methods at uniform bits": [Row(name, name, bits) for name in plain for bits in widths],
        "Fully quantized: LayerNorm and softmax too": fully,
        "Instance-aware groups at 4/4": groups,
        "Protocols: as published, and by default": [
            Row(name if protocol == "autoq" else f"{name}, published", name, bits, MethodOptions(protocol=protocol))
            for name in ("repq-vit", "adalog", "ptq4vit", "fq-vit")
            for bits in (("w8a8s4",) if name == "fq-vit" else widths[-2:])
            for protocol in PROTOCOLS
        ],
    }


def main() -> None:
    """Measure what is missing and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--eval-data", default="digits/val")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", help="measure these alone")
    parser.add_argument("--tables", default="", help="print tables whose title contains this")
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    session = Session.open(arguments.model)
    labelled = session.labelled_images(arguments.eval_data)
    assert labelled is not None
    known = {_key(entry): entry for entry in open_results(arguments.results)}

    def measured(row: Row, seed: int) -> dict[str, Any] | None:
        entry = {"method": row.method, "bits": row.bits, **row.options.given(), "seed": seed}
        if _key(entry) not in known and (not arguments.methods or row.method in arguments.methods):
            entry |= _measure(session, row, seed, arguments.data, arguments.eval_data)
            known[_key(entry)] = entry
            append_result(arguments.results, entry)
            print(entry, file=sys.stderr, flush=True)
        return known.get(_key(entry))

    tables = {
        title: [(row, [found for seed in range(arguments.seeds) if (found := measured(row, seed))]) for row in listed]
        for title, listed in rows().items()
        if arguments.tables in title
    }
    _print_tables(tables, full_precision(session, labelled), labelled.count)


def _measure(session: Session, row: Row, seed: int, data: str, eval_data: str) -> dict[str, Any]:
    method = EachChannel() if row.method == EachChannel.name else create_method(row.method, row.options)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        seconds: dict[str, float] = {}
        events: Callable[[Any], None] = lambda event: seconds.setdefault(event.phase, time.perf_counter() - started)  # noqa: E731
        recipe = quantize(
            session, method, BitWidths.parse(row.bits), QuantizeSettings(data, folder, None, seed, eval_data), events
        )
    assert recipe.score is not None
    assert recipe.cost is not None
    assert recipe.calibration is not None
    return {
        "top1_percent": recipe.score.metrics["top1_percent"],
        "kl_nats": recipe.score.kl_nats,
        "bops": recipe.cost.bops,
        "images": recipe.calibration.images,
        "calibration_seconds": round(seconds["score"], 1),
    }


def _key(entry: dict[str, Any]) -> str:
    names = ("method", "bits", "protocol", "observer", "groups", "ptf", "lis", "seed")
    return json.dumps([entry.get(name) for name in names])


def full_precision(session: Session, labelled: LabelledImages) -> float:
    """Measure the accuracy of a model in full precision, in percent."""
    session.model.remove_()
    return measure_accuracy(session.model, labelled.batches()).metrics["top1_percent"]


def _print_tables(
    tables: dict[str, list[tuple[Row, list[dict[str, Any]]]]], full_precision: float, images: int
) -> None:
    print("# Published methods\n")
    print(f"`python -m benchmarks.methods {' '.join(map(_short, sys.argv[1:]))}`\n")
    print(
        f"Top-1 of {images} images in percent (full precision {full_precision:.2f}), mean ± standard deviation over "
        "seeds, which choose the calibration images; KL in nats on those. Made with "
        f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}."
    )
    for title, listed in tables.items():
        print(f"\n## {title}\n")
        print("| method | bits | calibration images | BOPs | top-1 | KL |\n| --- | --- | --- | --- | --- | --- |")
        by_label: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row, entries in listed:
            by_label[row.label, row.bits] += entries
        for (label, bits), entries in by_label.items():
            if entries:
                top1 = [entry["top1_percent"] for entry in entries]
                kl = statistics.mean(entry["kl_nats"] for entry in entries)
                bops = format_bops(entries[0]["bops"]).removesuffix(" BOPs")
                print(
                    f"| {label} | {bits} | {entries[0]['images']} | {bops} | "
                    f"{statistics.mean(top1):.2f} ± {statistics.pstdev(top1):.2f} | {format_kl(kl)} |"
                )


def _short(argument: str) -> str:
    """Without the folders that lead to it."""
    return argument.replace("../shared/models/", "").replace("../shared/data/", "")


if __name__ == "__main__":
    main()
