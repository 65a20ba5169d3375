"""``autoq.export``."""

from __future__ import annotations

import copy
import os
from functools import cache, partial
from pathlib import Path

from torch import Tensor

from autoq.api.applying import apply_recipe, load
from autoq.api.evaluating import reader_of
from autoq.api.opening import ModelInput, ModelOptions, open_model
from autoq.errors import ArgumentTypeError
from autoq.exporters import EXPORTERS, Architecture, ExportReport, ExportSource, write_export
from autoq.models.loaded import IN_MEMORY
from autoq.optimization.space import load_target
from autoq.recipe import Recipe
from autoq.runs.recipes import calibrated_on, own_images
from autoq.runs.recipes import open_model as open_model_of
from autoq.runs.session import Session
from autoq.scoring.quantized_module import QuantizedModule
from autoq.tasks import task_from_record

CHECK_IMAGES = 64
"""Calibration images that an exported file is compared on."""


def export(
    quantized: QuantizedModule | Recipe | str | os.PathLike[str],
    path: str | os.PathLike[str],
    format: str = "recipe",  # noqa: A002 - what the command line calls it
    *,
    model: ModelInput | None = None,
    images: object = None,
    allow_float: bool = False,
    target: str | os.PathLike[str] | None = None,
    check_images: int = CHECK_IMAGES,
) -> ExportReport:
    """Write a quantized model or a recipe in another format, and compare what was written with autoq.

    Args:
        quantized: a quantized model, a recipe, or the path of one or of a run directory (its best).
        path: the file to write; it is written whole or not at all.
        format: ``recipe`` or ``bundle``, autoq's own; ``pt2``, a ``torch.export`` program; ``torch``, a folder for
            ``autoq.load_quantized``; ``onnx``; ``onnx-int4``; ``qonnx``; ``torchao``; ``compressed-tensors``;
            ``aimet``; ``csv`` or ``markdown``. ``autoq export --list`` says what each holds.
        model: the recipe's model, if it cannot be loaded by its name.
        images: the recipe's calibration images, if they cannot be loaded by their name.
        allow_float: leave operands in floating point that the format cannot hold or the target does not have.
        target: what there is where the file is to run: a shipped target (``any``, ``onnxruntime-avx2``, ``fpga``,
            ``int8-int4``) or a TOML file; None: everything.
        check_images: how many calibration images the file is run on.

    Returns:
        What was written, and how it agrees with autoq.

    Raises:
        ExportError: there is no such format, it cannot hold the recipe, the target does not have it, or a package is
            missing.
        TargetError: there is no such target, or its file is malformed.
        RunError: what was written does not run; nothing is left of it.
        OSError: the file cannot be written.

    Examples:
        >>> import autoq, pathlib, tempfile
        >>> quantized = autoq.quantize("vit_digits", "rtn", images="digits", bits="w8a8", calib_images=16)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     autoq.export(quantized, pathlib.Path(folder) / "quantized.pt2", "pt2").agreement.agreement_percent
        100.0
    """
    exporter = EXPORTERS.lookup(format)()
    there = None if target is None else load_target(target)
    source = source_of(quantized, model, images, check_images)
    return write_export(exporter, source, Path(path), allow_float=allow_float, target=there)


def source_of(
    quantized: QuantizedModule | Recipe | str | os.PathLike[str],
    model: ModelInput | None,
    images: object,
    count: int,
) -> ExportSource:
    """Return what exporters take, nothing of it opened before it is needed.

    Args:
        quantized: a quantized model, a recipe, or the path of one.
        model: as in :func:`export`.
        images: as in :func:`export`.
        count: calibration images to compare on.
    """
    recipe = quantized.recipe if isinstance(quantized, QuantizedModule) else load(quantized)

    @cache
    def session() -> Session:
        if model is None:
            return open_model_of(recipe, device="cpu")
        return open_model(model, ModelOptions(device="cpu").for_recipe(recipe), images, task_from_record(recipe.task))

    def reopen(changed: Recipe) -> QuantizedModule:
        return apply_recipe(session(), changed, images)

    def architecture() -> Architecture:
        return Architecture(session().loaded.module, session().traced)

    is_at_hand = model is not None or not recipe.model.name.startswith(IN_MEMORY)
    original = (reopen, architecture) if is_at_hand else (None, None)
    if isinstance(quantized, QuantizedModule):
        module = copy.deepcopy(quantized).cpu()
        return ExportSource(recipe, lambda: module, partial(_images_of, module, images, count), *original)

    def own() -> Tensor:
        named = calibrated_on(recipe, images)
        return own_images(session(), named, images).calibrating.tensor[:count]

    return ExportSource(recipe, partial(reopen, recipe), own, *original)


def _images_of(module: QuantizedModule, images: object, count: int) -> Tensor:
    """Return calibration images of a module that is run as it is."""
    calibration = module.recipe.calibration
    if images is None:
        if calibration is None or calibration.data.startswith(IN_MEMORY):
            raise ArgumentTypeError("what is exported is compared on calibration images: give images")
        images = calibration.data
    reader = reader_of(module, ModelOptions().for_recipe(module.recipe), images, task_from_record(module.recipe.task))
    seed = 0 if calibration is None else calibration.seed
    return reader.calibration_images(images, count, seed).tensor.float()
