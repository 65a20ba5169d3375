"""``autoq.quantize``, and what other functions need of it: reading a recipe, and applying it to an open model."""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from autoq.api.opening import ModelInput, ModelOptions, open_model, shown
from autoq.errors import ArgumentTypeError, MethodError
from autoq.events import Progress
from autoq.exporters import pick_recipe
from autoq.methods import METHODS, BitWidths, MethodOptions, create_method
from autoq.models.loaded import Preprocess
from autoq.recipe import Recipe
from autoq.runs.quantize import QuantizeSettings
from autoq.runs.quantize import quantize as run_method
from autoq.runs.recipes import calibrated_on, own_images, solve_recipe
from autoq.runs.recipes import open_model as open_model_of
from autoq.runs.session import Session
from autoq.scoring.quantized_module import QuantizedModule
from autoq.tasks import make_task, task_from_record, with_settings


def quantize(
    model: ModelInput,
    recipe: Recipe | str | os.PathLike[str],
    images: object = None,
    *,
    bits: str | None = None,
    method_options: dict[str, Any] | None = None,
    calib_images: int | None = None,
    task: str = "classification",
    output: str | None = None,
    task_options: Mapping[str, Any] | None = None,
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
        recipe: a recipe, the path of one or of a search's run directory (its best), or the name of a published method:
            ``rtn``, ``fq-vit``, ``ptq4vit``, ``repq-vit``, ``igq-vit``, ``adalog``, ``aphq-vit``.
        images: unlabelled images to calibrate on, as in ``autoq.search``. A recipe from a search needs none, as long as
            its bank lies beside it.
        bits: of a published method: ``"w4a4"``, ``"w8a8s4"``.
        method_options: options of the method, by the names of ``autoq quantize --help``: ``{"groups": 12}``.
        calib_images: how many of ``images``; None: as many as the method's paper.
        task: what the output means, for a method: ``"classification"`` or ``"dense"``; a recipe says so itself.
        output: dotted name of the part of the output that is compared, for a method; None: as the task chooses.
        task_options: settings of the task by name, for a method.
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

    Examples:
        >>> import autoq, torch
        >>> quantized = autoq.quantize("vit_digits", "rtn", images="digits", bits="w8a8", calib_images=16)
        >>> quantized(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    options = ModelOptions(preprocess, example_input, None, pretrained, device)
    with shown(progress) as callback:
        if isinstance(recipe, str) and not _is_path(recipe):
            if bits is None:
                raise MethodError(f"{recipe!r} needs bits: give bits='w4a4', say")
            if images is None:
                raise MethodError(f"{recipe!r} needs images to calibrate on: give images")
            method, widths = create_method(recipe, MethodOptions(**(method_options or {}))), BitWidths.parse(bits)
            meaning = with_settings(make_task(task, output=output), task_options or {})
            session = open_model(model, options, images, meaning)
            with tempfile.TemporaryDirectory(prefix="autoq-") as folder:
                settings = QuantizeSettings(images, folder, calib_images, seed)
                made = run_method(session, method, widths, settings, callback).located(Path(folder))
                return apply_recipe(open_beside(session, made), made, images)
        if bits is not None or method_options:
            raise MethodError("bits and method_options are for published methods: a recipe has its own")
        recipe = load(recipe)
        session = open_model(model, options.for_recipe(recipe), images, task_from_record(recipe.task))
        return apply_recipe(session, recipe, images)


def open_beside(session: Session, recipe: Recipe) -> Session:
    """Open the model that a method saved beside its recipe (with ReLU for GELU); else return the given one."""
    if recipe.model.weights_sha256 == session.loaded.weights_sha256:
        return session
    return open_model_of(recipe, device=str(session.device))


def apply_recipe(session: Session, recipe: Recipe, images: object) -> QuantizedModule:
    """Return the quantized module of a recipe, calibrated on other images if they are given."""
    session.check(recipe)
    if recipe.calibration is None:
        recipe = calibrated_on(recipe, images)
    session, operands = solve_recipe(session, recipe, lambda: own_images(session, recipe, images).calibrating)
    input_name = next(iter(inspect.signature(session.loaded.module.forward).parameters), "x")
    return QuantizedModule(
        session.traced,
        operands,
        recipe,
        input_name,
        folded=session.folded,
        preprocessing=session.loaded.preprocessing,
    )


def load(recipe: Recipe | str | os.PathLike[str]) -> Recipe:
    """Return a recipe as it is, or read it from its file; of a search's run directory, its best."""
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str | os.PathLike):
        raise ArgumentTypeError(f"recipe is a Recipe, a path or a method's name, not {type(recipe).__name__}")
    return pick_recipe(recipe).recipe


def _is_path(text: str) -> bool:
    """Return whether a text means a recipe's path, and not a method."""
    return text not in METHODS and (text.endswith((".json", ".zip")) or os.sep in text or Path(text).exists())
