"""``autoq.reconstruct``."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import Tensor

from autoq.api.applying import load
from autoq.api.opening import ModelInput, ModelOptions, open_model, shown
from autoq.events import Progress
from autoq.files import folder_or_temporary
from autoq.models.loaded import Preprocess
from autoq.recipe import Recipe
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.runs.recipe_work import make_checked
from autoq.runs.reconstruct import ReconstructSettings, reconstruct_recipe
from autoq.tasks import task_from_record


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

    Examples:
        >>> import autoq
        >>> result = autoq.search(trials=4, calib_images=8, space="bits_only", fast=True)
        >>> learned = autoq.reconstruct("vit_digits", result.best, "digits", iterations=2, count=8)
        >>> learned.reconstruction.iterations
        2
    """
    given = {"iterations": iterations, "importance": importance, "bfloat16": bfloat16 or None, "seed": seed}
    training = make_checked(ReconstructionSettings, given)
    folder, kept = folder_or_temporary(out)
    settings = ReconstructSettings(
        out=folder, data=images, images=count, training=training, blocks=None if blocks is None else tuple(blocks)
    )
    with shown(progress) as callback:
        recipe = load(recipe)
        options = ModelOptions(preprocess, example_input, device=device).for_recipe(recipe)
        session = open_model(model, options, images, task_from_record(recipe.task))
        found = reconstruct_recipe(recipe, settings, session=session, progress=callback)
    return found.recipe.located(folder, kept)
