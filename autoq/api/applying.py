"""``autoq.quantize``, ``autoq.evaluate``, ``autoq.reconstruct`` and ``autoq.export``: what is done with a recipe."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from autoq.api.opening import ModelInput, ModelOptions, open_model, shown
from autoq.errors import ArgumentTypeError, MethodError
from autoq.events import Progress
from autoq.export import EXPORTERS, ExportSource
from autoq.methods import BitWidths, MethodOptions, create_method
from autoq.models.loaded import Preprocess
from autoq.recipe import Recipe
from autoq.runs.quantize import QuantizeSettings
from autoq.runs.quantize import quantize as run_method
from autoq.runs.recipes import calibrated_on, own_images, solve_recipe
from autoq.runs.recipes import open_model as open_model_of
from autoq.runs.reconstruct import ReconstructSettings, make_training, reconstruct_recipe
from autoq.runs.session import Session
from autoq.scoring.quantized_module import QuantizedModule


def quantize(
    model: ModelInput,
    recipe: Recipe | str | os.PathLike[str],
    images: object = None,
    *,
    bits: str | None = None,
    method_options: dict[str, Any] | None = None,
    calib_images: int | None = None,
    preprocess: Preprocess | None = None,
    example_input: Tensor | None = None,
    pretrained: bool = True,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | bool = False,
) -> QuantizedModule:
    """Make the quantized model that a recipe describes, or that a published method makes.

    Args:
        model: a module in evaluation mode or a name, as in ``autoq.search``; it is not changed.
        recipe: a recipe, the path of one, or the name of a published method: ``rtn``, ``fq-vit``, ``ptq4vit``,
            ``repq-vit``, ``igq-vit``, ``adalog``, ``aphq-vit``.
        images: unlabelled images to calibrate on, as in ``autoq.search``. A recipe from a search needs none, as long as
            its bank lies beside it.
        bits: of a published method: ``"w4a4"``, ``"w8a8s4"``.
        method_options: options of the method, by the names of ``autoq quantize --help``: ``{"groups": 12}``.
        calib_images: how many of ``images``; None: as many as the method's paper.
        preprocess: from a PIL image to a tensor (C, H, W), where the model does not say.
        example_input: an example of the input, of shape (N, ...), where images do not tell.
        pretrained: False for random weights, of a model that is named.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        seed: chooses images.
        progress: True for a live display on standard error, or a callback.

    Returns:
        A module that takes and returns what the model does. It is a copy, and needs neither bank nor run directory;
        ``recipe`` tells how it is quantized.

    Raises:
        RecipeError: the recipe is another model's, or cannot be calibrated without images.
        MethodError: there is no such method, or bits are missing or not its own.
        RunError: an operand cannot be calibrated.

    >>> import autoq, torch
    >>> quantized = autoq.quantize("vit_digits", "rtn", images="digits", bits="w8a8", calib_images=16)
    >>> quantized(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    options = ModelOptions(preprocess, example_input, None, pretrained, device)
    with shown(progress) as callback:
        session = open_model(model, options, images)
        if isinstance(recipe, str) and not _is_path(recipe):
            method = create_method(recipe, MethodOptions(**(method_options or {})))
            if bits is None:
                raise MethodError(f"{recipe!r} needs bits: give bits='w4a4', say")
            if images is None:
                raise MethodError(f"{recipe!r} needs images to calibrate on: give images")
            with tempfile.TemporaryDirectory(prefix="autoq-") as folder:
                settings = QuantizeSettings(images, folder, calib_images, seed)
                made = run_method(session, method, BitWidths.parse(bits), settings, callback).located(Path(folder))
                return _apply(open_beside(session, made), made, images)
        if bits is not None or method_options:
            raise MethodError("bits and method_options are for published methods: a recipe has its own")
        return _apply(session, _loaded(recipe), images)


def open_beside(session: Session, recipe: Recipe) -> Session:
    """The model that a method left beside its recipe if it changed the model (ReLU for GELU), else the same one."""
    if recipe.model.weights_sha256 == session.loaded.weights_sha256:
        return session
    return open_model_of(recipe, device=str(session.device))


def reconstruct(
    model: ModelInput,
    recipe: Recipe | str | os.PathLike[str],
    images: object = None,
    *,
    iterations: int | None = None,
    importance: str | None = None,
    count: int = 1024,
    blocks: Sequence[str] | None = None,
    bfloat16: bool = False,
    preprocess: Preprocess | None = None,
    example_input: Tensor | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | bool = False,
) -> Recipe:
    """Train the rounding and the scales of a recipe, block by block, on unlabelled images.

    Rounding by AdaRound (Nagel et al., ICML 2020) with QDrop (Wei et al., ICLR 2022), squared errors weighted by the
    average perturbation Hessian of APHQ-ViT (Wu et al., CVPR 2025).

    Args:
        model: a module in evaluation mode or a name, as in ``autoq.search``; it is not changed.
        recipe: a calibrated recipe, or the path of one.
        images: to learn from, as in ``autoq.search``; None: those that the recipe was calibrated on, if they have a
            name.
        iterations: training steps of each block; None: 1,000.
        importance: ``aph``, ``brecq`` or ``mse``: by what squared errors of a block's output are weighted.
        count: images to learn from, at most.
        blocks: names of the blocks to train; None: all.
        bfloat16: train in bfloat16.
        preprocess: from a PIL image to a tensor (C, H, W), where the model does not say.
        example_input: an example of the input, of shape (N, ...), where images do not tell.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        seed: chooses images, and batches.
        out: directory, which the same call resumes; None: a temporary one, which lives as long as the recipe.
        progress: True for a live display on standard error, or a callback.

    Returns:
        The recipe with its learned weights beside it, for ``autoq.quantize``, ``autoq.evaluate``, ``autoq.export``.

    Raises:
        RecipeError: the recipe is another model's, or reconstructed already.
        RunError: training failed.

    >>> import autoq
    >>> result = autoq.search(trials=4, calib_images=8, space="bits_only")
    >>> learned = autoq.reconstruct("vit_digits", result.best, "digits", iterations=2, count=8)
    >>> learned.reconstruction.iterations
    2
    """
    given = {"iterations": iterations, "importance": importance, "bfloat16": bfloat16 or None, "seed": seed}
    training = make_training({key: value for key, value in given.items() if value is not None})
    kept = tempfile.TemporaryDirectory(prefix="autoq-") if out is None else None
    folder = Path(kept.name if kept is not None else out)  # type: ignore[arg-type]
    settings = ReconstructSettings(
        out=folder, data=images, images=count, training=training, blocks=None if blocks is None else tuple(blocks)
    )
    with shown(progress) as callback:
        session = open_model(model, ModelOptions(preprocess, example_input, device=device), images)
        found = reconstruct_recipe(_loaded(recipe), settings, session=session, progress=callback)
    return found.recipe.located(folder, kept)


def export(
    quantized: QuantizedModule | Recipe | str | os.PathLike[str],
    path: str | os.PathLike[str],
    format: str = "recipe",  # noqa: A002 - what the command line calls it
    *,
    model: ModelInput | None = None,
    images: object = None,
) -> None:
    """Write a quantized model or a recipe in another format.

    Args:
        quantized: a quantized model, a recipe, or the path of one.
        path: the file to write; it is written whole or not at all.
        format: ``recipe``, autoq's own JSON.
        model: the recipe's model, if it cannot be loaded by its name.
        images: the recipe's calibration images, if its bank is not beside it.

    Raises:
        RecipeError: there is no such format, or it cannot express the recipe.
        OSError: the file cannot be written.

    >>> import autoq, pathlib, tempfile
    >>> result = autoq.search(trials=4, calib_images=8, space="bits_only")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     autoq.export(result.best, pathlib.Path(folder) / "best.json")
    ...     autoq.load_recipe(pathlib.Path(folder) / "best.json") == result.best
    True
    """
    exporter = EXPORTERS.lookup(format)
    if isinstance(quantized, QuantizedModule):
        exporter(ExportSource(quantized.recipe, lambda: quantized), Path(path))
        return
    recipe = _loaded(quantized)
    exporter(ExportSource(recipe, partial(_module_of, recipe, model, images)), Path(path))


def _module_of(recipe: Recipe, model: ModelInput | None, images: object) -> QuantizedModule:
    session = open_model_of(recipe) if model is None else open_model(model, ModelOptions(), images)
    return _apply(session, recipe, images)


def _apply(session: Session, recipe: Recipe, images: object) -> QuantizedModule:
    """The quantized module of a recipe, calibrated on other images than its own if they are given."""
    session.check(recipe)
    if recipe.calibration is None:
        recipe = calibrated_on(recipe, images)
    session, operands = solve_recipe(session, recipe, lambda: own_images(session, recipe, images))
    return QuantizedModule(session.traced, operands, recipe)


def _loaded(recipe: Recipe | str | os.PathLike[str]) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str | os.PathLike):
        raise ArgumentTypeError(f"recipe is a Recipe, a path or a method's name, not {type(recipe).__name__}")
    return Recipe.load(recipe)


def _is_path(text: str) -> bool:
    """Whether a text means a recipe's file, and not a method."""
    return text.endswith(".json") or os.sep in text
