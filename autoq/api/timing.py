"""``autoq.latency`` and ``autoq.latency_table``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from autoq.api.exporting import source_of
from autoq.api.opening import ModelInput, ModelOptions, open_model, shown
from autoq.cost.latency import LatencyTable
from autoq.errors import ArgumentTypeError
from autoq.events import Progress
from autoq.exporters import ExportSource, OnnxExporter, pick_recipe, write_export
from autoq.exporters.site_timing import measure_table
from autoq.exporters.timing import Timing, describe_machine, open_in, time_in_pairs
from autoq.recipe import Recipe
from autoq.scoring.quantized_module import QuantizedModule
from autoq.scoring.solved_operands import SolvedOperands

_FLOAT = "float"
_CHECKED = 32
"""Images that what is timed is compared on."""


@dataclass(frozen=True)
class Latency:
    """What recipes and the model in floating point take, as ONNX.

    Attributes:
        machine: processor, instructions, threads and runtime.
        timings: by batch size, then by name, the reference first.
        agreement_percent: of each recipe's file with autoq, in onnxruntime; None for floating point.
        reference: the name of what the others are as fast as.

    Examples:
        >>> from autoq.exporters.timing import Timing
        >>> timings = {"float": Timing(8.0, 1.0, 1.0, 1.0, 20), "rtn w8a8": Timing(5.0, 1.6, 1.5, 1.7, 20)}
        >>> found = Latency("x86_64, 1 thread", {1: timings}, {"float": None, "rtn w8a8": 100.0})
        >>> [(each["name"], each["speedup"]) for each in found.to_json()["timings"]]
        [('float', 1.0), ('rtn w8a8', 1.6)]
    """

    machine: str
    timings: Mapping[int, Mapping[str, Timing]]
    agreement_percent: Mapping[str, float | None]
    reference: str = _FLOAT

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        batches = [
            {"batch": size, "name": name, "agreement_percent": self.agreement_percent[name], **timing.to_json()}
            for size, timings in self.timings.items()
            for name, timing in timings.items()
        ]
        return {"machine": self.machine, "reference": self.reference, "timings": batches}


def latency(
    quantized: Sequence[Any],
    *,
    batch: Sequence[int] = (1,),
    threads: int = 1,
    rounds: int = 50,
    runtime: str = "onnxruntime",
    reference: Any = None,
    model: ModelInput | None = None,
    images: object = None,
) -> Latency:
    """Time quantized models as ONNX against the model in floating point, or another recipe, in pairs.

    Args:
        quantized: quantized modules, recipes, paths of them, or run directories (their best recipe), of one model.
        batch: images at a time.
        threads: that a runtime may use.
        rounds: how many; in each, every model runs once, so that what slows the machine down slows all of them.
        runtime: ``onnxruntime`` or ``openvino``.
        reference: a recipe, given as the others are, that ratios are to; None: the model in floating point.
        model: the recipes' model, if it cannot be loaded by its name.
        images: their calibration images, if they cannot be loaded by their name.

    Raises:
        ExportError: a package is missing, or there is no such runtime.
        RunError: a file does not run.

    Examples:
        >>> import autoq
        >>> quantized = autoq.quantize("vit_digits", "rtn", images="digits", bits="w8a8", calib_images=8)
        >>> autoq.latency([quantized], batch=[2], rounds=2).timings[2]["rtn w8a8"].rounds
        2
    """
    if not quantized:
        raise ArgumentTypeError("give one quantized model or recipe at least")
    open_file, exporter = open_in(runtime), OnnxExporter()
    exporter.require_packages()
    with tempfile.TemporaryDirectory(prefix="autoq-latency-") as folder:
        sources: dict[str, ExportSource] = {}
        for number, given in enumerate(quantized if reference is None else [reference, *quantized]):
            name, source = _named_source(given, number, model, images)
            sources[name if name not in sources else f"{name} ({number + 1})"] = source
        first = next(iter(sources.values()))
        order = [_FLOAT, *sources] if reference is None else [next(iter(sources)), _FLOAT, *list(sources)[1:]]
        files = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate(order)}
        agreement: dict[str, float | None] = dict.fromkeys(order)
        exporter.write(first.without(list(first.module.quantizers)), files[_FLOAT])
        for name, source in sources.items():
            report = write_export(exporter, source, files[name])
            agreement[name] = None if report.agreement is None else report.agreement.agreement_percent
        timings = {}
        for size in batch:
            one = first.images[:1].repeat(size, *[1] * (first.images.ndim - 1))
            models = {name: open_file(path, [one], threads) for name, path in files.items()}
            timings[size] = time_in_pairs(models, rounds)
    return Latency(describe_machine(runtime, threads), timings, agreement, order[0])


def _named_source(given: Any, number: int, model: ModelInput | None, images: object) -> tuple[str, ExportSource]:
    """Return a name for tables, and the source."""
    if isinstance(given, str | os.PathLike):
        path = Path(given)
        chosen, recipe, version = pick_recipe(path)
        if version:
            return f"{path.name} {chosen}", source_of(recipe, model, images, _CHECKED)
        # What autoq quantize writes is called recipe.json: its folder tells it from others.
        name = path.resolve().parent.name if path.name == "recipe.json" else path.stem
        return name, source_of(recipe, model, images, _CHECKED)
    recipe = given if isinstance(given, Recipe) else given.recipe
    return recipe.method or f"recipe {number + 1}", source_of(given, model, images, _CHECKED)


def latency_table(
    model: ModelInput,
    *,
    batch: int = 1,
    threads: int = 1,
    rounds: int = 20,
    runtime: str = "onnxruntime",
    pretrained: bool = True,
    images: object = None,
    progress: Progress | bool = False,
) -> LatencyTable:
    """Measure the table that budgets of latency need: every site as ONNX, in floating point and in 8-bit integers.

    Args:
        model: a name, or a module in evaluation mode.
        batch: images at a time; times are per image.
        threads: that the runtime may use.
        rounds: of each measurement; in each, the model and every kind of one site run once.
        runtime: ``onnxruntime`` or ``openvino``.
        pretrained: False for random weights, of a model that is named.
        images: tensors of shape (N, ...), where nothing else tells the size of the input.
        progress: a callback for events (``autoq.events``), True for a live display.

    Returns:
        The table; ``save`` writes it.

    Raises:
        ExportError: a package is missing, or there is no such runtime.
        ModelError: there is no such model.

    Examples:
        >>> import autoq
        >>> table = autoq.latency_table("vit_digits", rounds=2)
        >>> table.rows[0].site, table.rows[0].milliseconds > 0
        ('patch_embed.proj', True)
    """
    open_file = open_in(runtime)
    OnnxExporter().require_packages()
    session = open_model(model, ModelOptions(pretrained=pretrained, device="cpu"), images)
    recipe = Recipe(model=session.reference, sites={})
    source = ExportSource(
        recipe,
        lambda: QuantizedModule(
            session.traced, SolvedOperands({}, {}), recipe, preprocessing=session.loaded.preprocessing
        ),
        lambda: torch.zeros(1, *session.loaded.input_size),
    )
    description = f"{session.reference.name}, batch {batch}, {describe_machine(runtime, threads)}"
    with shown(progress) as report:
        return measure_table(
            session.traced,
            source,
            open_file,
            description,
            batch=batch,
            threads=threads,
            rounds=rounds,
            progress=report,
        )
