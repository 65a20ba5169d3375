"""What reconstruction gives back: the ladder of APHQ-ViT, iterations against accuracy, and searched recipes.

Run from the project's root, for instance::

    python -m benchmarks.reconstruction --model local-dir:vit_c10 --data cifar10/calib --eval-data cifar10/val \
        --relu-model local-dir:vit_c10_relu --bits w4a4 w3a3 --iterations 500 --results studies/reconstruction.jsonl

Every row is one reconstructed (or only calibrated) model, written as soon as it is known; rows that are there already
are not measured again. ``python -m benchmarks.reconstruction --table studies/reconstruction.jsonl`` prints them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from autoq.methods import BitWidths, create_method
from autoq.reconstruction.block_folder import BlockReport
from autoq.reconstruction.reconstruct import reconstruct
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.images import LabelledImages
from autoq.runs.recipes import options_of
from autoq.runs.session import Session
from autoq.runs.transforming import rescale_for
from autoq.scoring import measure_accuracy
from autoq.scoring.discrepancy import Discrepancy
from autoq.scoring.outputs import predict
from autoq.scoring.solved_operands import SolvedOperands
from benchmarks.result_lines import append_result, open_results, read_results

KEY = ("model", "method", "bits", "importance", "iterations", "seed", "images", "drop", "scale_rate")
CALIBRATED = "calibrated"


def main() -> None:
    """Measure what is asked for, or print what was measured."""
    arguments = _arguments()
    if arguments.table:
        _print_table(Path(arguments.table))
        return
    torch.set_num_threads(arguments.threads)
    path = Path(arguments.results)
    done = {_key(row) for row in open_results(path)}
    for row in _wanted(arguments):
        if _key(row) not in done:
            measured = _measure(row, arguments)
            print(json.dumps({key: measured[key] for key in (*KEY, "top1_percent", "kl_nats", "seconds")}), flush=True)
            append_result(path, measured)


def _wanted(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Rows to measure, cheapest first."""
    models = [model for model in (arguments.model, arguments.relu_model) if model]
    for seed in arguments.seeds:
        for model in models:
            for bits in arguments.bits:
                common = {"model": model, "method": arguments.method, "bits": bits, "seed": seed}
                common |= {"images": arguments.images, "drop": arguments.drop, "scale_rate": arguments.scale_rate}
                yield {**common, "importance": CALIBRATED, "iterations": 0}
                for importance in arguments.importance:
                    for iterations in arguments.iterations:
                        if importance == "aph" or model == arguments.model:
                            yield {**common, "importance": importance, "iterations": iterations}


def _measure(row: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    session = Session.open(row["model"])
    original = session if row["model"] == arguments.model else Session.open(arguments.model)
    method, bits = create_method(row["method"]), BitWidths.parse(row["bits"])
    images = session.calibration_images(arguments.data, row["images"], row["seed"])
    few = session.calibration_images(arguments.data, arguments.calib_images, row["seed"])
    labelled = session.labelled_images(arguments.eval_data)
    assert labelled is not None
    sites, norms = method.sites(session.traced, bits), method.reparameterized(session.traced, bits)
    batches = torch.split(few.tensor, 32)
    with torch.inference_mode():  # KL is from the original model, also for one whose GELUs were replaced
        references = [predict(original.model, batch) for batch in batches]
    session = rescale_for(session, norms, lambda: few, method.settings(row["seed"]))
    bank = session.bank(lambda: few, few.sha256, method.settings(row["seed"]), recipe_sites=sites)
    bank.solve_all(options_of(sites))
    operands = SolvedOperands.from_bank(bank, sites)
    started = time.monotonic()
    reports: tuple[BlockReport, ...] = ()
    if row["iterations"]:
        settings = ReconstructionSettings(
            iterations=row["iterations"],
            importance=row["importance"],
            drop=row["drop"],
            scale_rate=row["scale_rate"],
            seed=row["seed"],
            bfloat16=arguments.bfloat16,
        )
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(arguments.parts or temporary) / "-".join(str(row[key]).replace("/", "_") for key in KEY)
            operands, reports = reconstruct(
                session.model, operands, images.tensor, settings, directory=folder, identity=row, on_block=_tell
            )
    seconds = time.monotonic() - started
    operands.apply_(session.model)
    discrepancy = Discrepancy()
    with torch.inference_mode():
        for expected, batch in zip(references, batches, strict=True):
            discrepancy.add(expected, predict(session.model, batch))
    accuracy = measure_accuracy(session.model, labelled.batches())
    return {
        **row,
        "relu": row["model"] == arguments.relu_model,
        "top1_percent": accuracy.metrics["top1_percent"],
        "full_precision_top1_percent": _full_precision(original, labelled),
        "kl_nats": discrepancy.score().kl_nats,
        "seconds": seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "threads": arguments.threads,
        "bfloat16": arguments.bfloat16,
        "blocks": [vars(report) for report in reports],
    }


def _full_precision(original: Session, labelled: LabelledImages) -> float:
    original.model.remove_()
    return measure_accuracy(original.model, labelled.batches()).metrics["top1_percent"]


def _tell(report: BlockReport) -> None:
    change = f"{report.before:.4g} -> {report.after:.4g}"
    print(f"  {report.name}: {report.loss} {change} in {report.seconds:.0f} s", file=sys.stderr, flush=True)


def _print_table(path: Path) -> None:
    """Rows that differ in their seed alone are one line: their mean, and half their spread."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in read_results(path):
        groups.setdefault(tuple(row[key] for key in KEY if key != "seed"), []).append(row)
    print("| model | bits | reconstruction | iterations | seeds | top-1 (%) | KL (nats) | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for rows in groups.values():
        first = rows[0]
        cells = [
            first["model"].rpartition("/")[2],
            first["bits"],
            first["importance"],
            str(first["iterations"]),
            str(len(rows)),
            _spread([row["top1_percent"] for row in rows], 2),
            _spread([row["kl_nats"] for row in rows], 4),
            f"{statistics.mean(row['seconds'] for row in rows):.0f}",
        ]
        print(f"| {' | '.join(cells)} |")


def _spread(values: list[float], digits: int) -> str:
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {(max(values) - min(values)) / 2:.{digits}f}"


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in KEY)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--relu-model", help="the same after MLP reconstruction")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--eval-data", default="digits")
    parser.add_argument("--method", default="aphq-vit", help="whose quantizers are reconstructed")
    parser.add_argument("--bits", nargs="+", default=["w4a4", "w3a3"])
    parser.add_argument("--importance", nargs="*", default=["mse", "brecq", "aph"])
    parser.add_argument("--iterations", type=int, nargs="+", default=[500])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--calib-images", type=int, default=128, help="that quantizers are calibrated on")
    parser.add_argument("--drop", type=float, default=0.5)
    parser.add_argument("--scale-rate", type=float, default=None)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", help="folder in which finished blocks are kept, to go on from after a kill")
    parser.add_argument("--results", default="reconstruction.jsonl")
    parser.add_argument("--table", help="print this file of results instead")
    return parser.parse_args()


if __name__ == "__main__":
    main()
