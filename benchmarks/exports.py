"""What each export format makes of recipes: agreement in a fresh process, difference, size, time.

    python -m benchmarks.exports --model local-dir:vit_c10 --calib-data cifar10/calib --data cifar10/val \
        --results docs/export_tables.jsonl
    python -m benchmarks.exports --model swin_tiny_patch4_window7_224 --no-pretrained --spaces --images 32 \
        --check-images 4 --calib-images 8 --calib-data imagenet1k-sample --data imagenet1k-sample \
        --results docs/export_tables.jsonl
    python -m benchmarks.exports_page docs/export_tables.jsonl > docs/export_tables.md

Recipes are a published method at uniform bits, and one searched in each of ``--spaces`` (a short search, on few images:
what is measured is the file, not the recipe). Each file is read by a process of its own, in which autoq cannot be
imported where the format does not need it, and compared with the recipe's module in autoq over images that calibrated
nothing. What the format cannot hold, so that it is refused, is counted; then it is left in floating point in both.
Format ``aimet`` is compared by the exporter itself, on calibration images: nothing here reads it without a simulator.
What is in ``--results`` already is not measured again; recipes lie in ``--runs``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import autoq
from autoq.api.exporting import source_of
from autoq.exporters import EXPORTERS, Agreement, ExportSource, write_export
from autoq.recipe import Recipe
from autoq.runs.recipes import open_model
from benchmarks.export_readers import READERS, read_alone
from benchmarks.result_lines import append_result, open_results

FORMATS = (*READERS, "aimet")
MOST_IMAGES = {"qonnx": 8}
"""Of formats whose reader takes seconds an image."""
METHOD = "rtn"
BUDGETS = {"weights_2-8": {"budget_size": "w4a4"}}
"""Of spaces that leave activations in floating point; the others have w4a4's bit operations."""
AT_ONCE = 32
"""Images that run at a time."""


def main() -> None:
    """Measure what is missing."""
    arguments = parse()
    known = {(entry["model"], entry["recipe"], entry["format"]) for entry in open_results(arguments.results)}
    for label, make in recipes(arguments):
        missing = [name for name in arguments.formats if (arguments.model, label, name) not in known]
        for entry in measured(make(), missing, arguments) if missing else ():
            append_result(arguments.results, {"model": arguments.model, "recipe": label, **entry})
            print(label, entry, file=sys.stderr, flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pretrained", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--calib-data", required=True, help="images that calibrate")
    parser.add_argument("--data", required=True, help="images to compare on")
    parser.add_argument("--images", type=int, default=256, help="of these")
    parser.add_argument("--bits", nargs="*", default=["w8a8", "w4a4"], help=f"of {METHOD}")
    spaces = ["vit_w2-8", "deployable_4-8", "onnxruntime_8", "fpga_2-8", "weights_2-8"]
    parser.add_argument("--spaces", nargs="*", default=spaces)
    parser.add_argument("--trials", type=int, default=30, help="of each search")
    parser.add_argument("--calib-images", type=int, default=32)
    parser.add_argument("--check-images", type=int, default=32, help="that the exporter itself compares on")
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--runs", type=Path, default=Path("export-runs"))
    parser.add_argument("--results", type=Path, required=True)
    return parser.parse_args()


def recipes(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[], Recipe]]]:
    """List what is exported: a label, and what makes the recipe or reads it."""
    runs = arguments.runs / arguments.model.rpartition(":")[2].replace("/", "-")
    for bits in arguments.bits:
        yield f"`{METHOD}` {bits}", partial(_uniform, arguments, bits, runs / f"{METHOD}-{bits}.zip")
    for space in arguments.spaces:
        yield f"searched in `{space}`", partial(_searched, arguments, space, runs / space)


def _uniform(arguments: argparse.Namespace, bits: str, path: Path) -> Recipe:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        quantized = autoq.quantize(
            arguments.model,
            METHOD,
            arguments.calib_data,
            bits=bits,
            calib_images=arguments.calib_images,
            pretrained=arguments.pretrained,
            device="cpu",
        )
        autoq.export(quantized, path, "bundle", check_images=arguments.check_images)
    return autoq.load_recipe(path)


def _searched(arguments: argparse.Namespace, space: str, out: Path) -> Recipe:
    found = autoq.search(
        arguments.model,
        arguments.calib_data,
        **BUDGETS.get(space, {"budget_bops": "w4a4"}),
        space=space,
        trials=arguments.trials,
        calib_images=arguments.calib_images,
        fast=True,
        pretrained=arguments.pretrained,
        device="cpu",
        out=out,
    )
    return found.best


def measured(recipe: Recipe, formats: list[str], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Export one recipe in several formats, read each file elsewhere, and yield what is said of it."""
    source = source_of(recipe, None, None, arguments.check_images)
    images = open_model(recipe, device="cpu").calibration_images(arguments.data, arguments.images, 1).tensor
    parameters = sum(each.numel() for each in source.architecture.module.parameters())

    @cache
    def answers(left: tuple[str, ...], count: int) -> Tensor:
        module = source.module.without([(site, operand) for site, _, operand in (key.rpartition(":") for key in left)])
        with torch.no_grad():
            return torch.cat([module(batch) for batch in images[:count].split(AT_ONCE)])

    common = {
        "pretrained": arguments.pretrained,
        "schemes": schemes_of(recipe),
        "float_megabytes": 4 * parameters / 1e6,
        "date": str(date.today()),
        "versions": {name: version(name) for name in ("torch", "onnxruntime")},
    }
    for format_ in formats:
        yield {"format": format_, **exported(source, format_, images, answers), **common}


def exported(
    source: ExportSource, format_: str, images: Tensor, answers: Callable[[tuple[str, ...], int], Tensor]
) -> dict[str, Any]:
    """Write a file, read it elsewhere, and compare it with what autoq answers, the same operands left in float."""
    exporter = EXPORTERS[format_]()
    spent: list[float] = []
    exporter.write = timed(exporter.write, spent)  # type: ignore[method-assign]
    refused = Counter(exporter.inexpressible(source).values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"exported{exporter.suffix}"
        report = write_export(exporter, source, path, allow_float=True)
        agreement = report.agreement
        if format_ in READERS:
            count = MOST_IMAGES.get(format_, len(images))
            found = read_alone(format_, path, source.recipe.model.name, images[:count])
            agreement = compared(found, answers(report.left_in_float, count))
    assert agreement is not None
    return {
        "agreement_percent": agreement.agreement_percent,
        "mean_difference": agreement.mean_difference,
        "mean_magnitude": agreement.mean_magnitude,
        "images": agreement.images,
        "megabytes": report.bytes / 1e6,
        "processor_seconds": sum(spent),
        "refused": dict(refused),
        "plain": dict(Counter(report.plain_operators.values())),
    }


def timed(write: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    """Return a function that notes the processor's seconds as well: others share the machine."""

    def call(*given: Any) -> Any:
        started = time.process_time()
        try:
            return write(*given)
        finally:
            spent.append(time.process_time() - started)

    return call


def compared(found: Tensor, expected: Tensor) -> Agreement:
    """Compare logits of shape (N, classes)."""
    same = 100 * float((found.argmax(1) == expected.argmax(1)).double().mean())
    return Agreement(same, float((found - expected).abs().mean()), float(expected.abs().mean()), len(found))


def schemes_of(recipe: Recipe) -> dict[str, int]:
    """Count a recipe's operands by scheme."""
    return dict(Counter(config.scheme for site in recipe.sites.values() for config in site.values()))


if __name__ == "__main__":
    main()
