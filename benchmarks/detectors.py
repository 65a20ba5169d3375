"""Average precision of a detector at few bits: published methods at uniform bits, and recipes at the same costs.

    python -m benchmarks.detectors --model swin_shapes --data shapes/train --eval-data shapes/val \
        --results docs/detectors.jsonl

Recipes are searched without labels at the cost of each of ``--budgets``, then finished and reconstructed. What is in
``--results`` already is not measured again; runs lie in ``--runs``, and are gone on with.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch

import autoq
from autoq.api.result import SearchResult
from autoq.recipe import Recipe
from autoq.units import format_bops, format_kl
from benchmarks.result_lines import append_result, open_results

IMAGES = 32
"""That calibrate published methods, but those that train."""
TRAINS = ("aphq-vit",)
"""Methods that train blocks."""


def main() -> None:
    """Measure what is missing and print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="swin_shapes")
    parser.add_argument("--task", default="detection")
    parser.add_argument("--data", default="shapes/train")
    parser.add_argument("--eval-data", default="shapes/val")
    parser.add_argument("--methods", nargs="*", default=["rtn", "igq-vit", "adalog", "aphq-vit"])
    parser.add_argument("--widths", nargs="*", default=["w8a8", "w6a6", "w4a4", "w3a3"])
    parser.add_argument("--budgets", nargs="*", default=["w4a4", "w3a3"])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument(
        "--iterations", type=int, help="of a block in training; 0: no reconstruction; default: as autoq"
    )
    parser.add_argument("--training-images", type=int, default=1024, help="that blocks are trained on")
    parser.add_argument("--calib-images", type=int, default=128, help="of searches")
    parser.add_argument("--runs", type=Path, default=Path("detector-runs"))
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    known = {entry["label"]: entry for entry in open_results(arguments.results)}
    for label, make in rows(arguments):
        if label not in known:
            known[label] = {"label": label, **measured(make(), arguments)}
            append_result(arguments.results, known[label])
            print(known[label], file=sys.stderr, flush=True)
    _print(known.values(), known[next(iter(known))]["full_precision"])


def rows(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Any]]]:
    """List what is measured: a label, and what makes the quantized model or its recipe."""
    model, data, task = arguments.model, arguments.data, arguments.task
    for method, bits in itertools.product(arguments.methods, arguments.widths):
        settings: dict[str, Any] = {"bits": bits, "task": task, "calib_images": IMAGES}
        if method in TRAINS:
            settings["calib_images"] = arguments.training_images
            settings["method_options"] = {"iterations": arguments.iterations or None}
        yield f"`{method}` {bits}", partial(autoq.quantize, model, method, data, **settings)
    for budget in arguments.budgets:
        yield f"uniform {budget}", partial(_uniform, arguments, budget)
        yield f"searched, cost of {budget}", partial(_searched, arguments, budget)
        yield f"finished, cost of {budget}", partial(_finished, arguments, budget)
        if arguments.iterations != 0:
            yield f"reconstructed, cost of {budget}", partial(_reconstructed, arguments, budget)


def _search(arguments: argparse.Namespace, budget: str) -> SearchResult:
    """Search without labels, or go on with the run of the budget; what is over is not searched again."""
    return autoq.search(
        arguments.model,
        arguments.data,
        budget,
        task=arguments.task,
        trials=arguments.trials,
        calib_images=arguments.calib_images,
        baselines="uniform",
        finish=False,
        out=arguments.runs / budget,
        progress=True,
    )


def _uniform(arguments: argparse.Namespace, budget: str) -> Recipe:
    return _search(arguments, budget).recipe(budget)


def _searched(arguments: argparse.Namespace, budget: str) -> Recipe:
    return _search(arguments, budget).recipe("best", version="searched")


def _finished(arguments: argparse.Namespace, budget: str) -> Recipe:
    return autoq.finish(arguments.model, _searched(arguments, budget), arguments.data)


def _reconstructed(arguments: argparse.Namespace, budget: str) -> Recipe:
    recipe, images = _searched(arguments, budget), arguments.training_images
    return autoq.reconstruct(
        arguments.model, recipe, arguments.data, iterations=arguments.iterations, count=images, progress=True
    )


def measured(quantized: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a quantized model, or a recipe, on the labelled images."""
    found = autoq.evaluate(quantized, arguments.eval_data, model=arguments.model, task=arguments.task)
    assert found.cost is not None
    assert found.score is not None
    kept = {"bops": found.cost.bops, "kl_nats": found.score.kl_nats, **found.metrics}
    return kept | {"full_precision": dict(found.full_precision), "torch": torch.__version__, "date": str(date.today())}


def _print(entries: Iterable[dict[str, Any]], full_precision: dict[str, float]) -> None:
    kinds = [name for name in ("box_ap_percent", "mask_ap_percent") if name in full_precision]
    print("| | BOPs | KL | " + " | ".join(name.removesuffix("_percent").replace("_ap", " AP") for name in kinds) + " |")
    print("| --- | --- | --- | " + " | ".join("---" for _ in kinds) + " |")
    print("| full precision | | | " + " | ".join(f"{full_precision[name]:.1f}" for name in kinds) + " |")
    for entry in entries:
        found = " | ".join(f"{entry[name]:.1f}" for name in kinds)
        print(f"| {entry['label']} | {format_bops(entry['bops'])} | {format_kl(entry['kl_nats'])} | {found} |")
    print(f"\nPython {platform.python_version()}, torch {torch.__version__}, {platform.machine()}.")


if __name__ == "__main__":
    main()
