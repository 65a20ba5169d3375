"""``autoq.finish``."""

from __future__ import annotations

import os

from torch import Tensor

from autoq.api.applying import load
from autoq.api.opening import ModelInput, ModelOptions, open_model, shown
from autoq.events import Progress
from autoq.files import folder_or_temporary
from autoq.models.loaded import Preprocess
from autoq.recipe import Recipe
from autoq.reconstruction.finishing import FinishingSettings
from autoq.runs.finish import FinishSettings, finish_recipe
from autoq.runs.recipe_work import make_checked
from autoq.tasks import task_from_record


def finish(
    model: ModelInput,
    recipe: Recipe | str | os.PathLike[str],
    images: object = None,
    *,
    count: int = 512,
    ridge: float | None = None,
    preprocess: Preprocess | None = None,
    example_input: Tensor | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | bool = False,
) -> Recipe:
    """Solve the weights of a recipe again, layer by layer, on its own quantized inputs; nothing is trained.

    Least squares against the outputs in full precision (ridge regression, as in ERQ; Zhong et al., ICML 2024), rounded
    with second-order information: the objective of GPTAQ (Li et al., ICML 2025).

    Args:
        model: a module in evaluation mode or a name, as in ``autoq.search``; it is not changed.
        recipe: a calibrated recipe, or the path of one.
        images: unlabelled, as in ``autoq.search``; None: those that the recipe was calibrated on, if they have a name.
        count: how many of them, at most. With few, weights fit them rather than others.
        ridge: how strongly new weights are held to those in full precision; None: 0.3.
        preprocess: from a PIL image to a tensor (C, H, W), where the model does not say.
        example_input: an example of the input, of shape (N, ...), where images do not tell.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.
        seed: chooses images.
        out: directory; None: a temporary one, which lives as long as the recipe.
        progress: True for a live display on standard error, or a callback.

    Returns:
        The recipe with its weights beside it, for ``autoq.quantize``, ``autoq.evaluate``, ``autoq.reconstruct``.

    Raises:
        RecipeError: the recipe is another model's, or has weights of its own already.
        RunError: the quantized model produces NaN.

    Examples:
        >>> import autoq
        >>> result = autoq.search(trials=4, calib_images=8, space="bits_only", fast=True)
        >>> finished = autoq.finish("vit_digits", result.best, "digits", count=64)
        >>> finished.finishing.images
        64
    """
    solving = make_checked(FinishingSettings, {"ridge": ridge})
    folder, kept = folder_or_temporary(out)
    settings = FinishSettings(out=folder, data=images, images=count, seed=seed, solving=solving)
    with shown(progress) as callback:
        recipe = load(recipe)
        options = ModelOptions(preprocess, example_input, device=device).for_recipe(recipe)
        session = open_model(model, options, images, task_from_record(recipe.task))
        finished = finish_recipe(recipe, settings, session=session, progress=callback)
    return finished.located(folder, kept)
