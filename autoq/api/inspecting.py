"""``autoq.sites`` and ``autoq.load_recipe``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from autoq.api.opening import ModelInput, ModelOptions, open_model
from autoq.exporters import pick_recipe
from autoq.models.loaded import Preprocess
from autoq.recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd


def sites(
    model: ModelInput = "vit_digits",
    *,
    preprocess: Preprocess | None = None,
    example_input: Tensor | None = None,
    label_names: Sequence[str] | None = None,
    pretrained: bool = True,
    device: str = "auto",
) -> pd.DataFrame:
    """List what of a model can be quantized.

    Args:
        model: a module in evaluation mode or a name, as in ``autoq.search``.
        preprocess: from a PIL image to a tensor (C, H, W), where the model does not say.
        example_input: an example of the input, of shape (N, ...), in place of ``preprocess``.
        label_names: names of the outputs.
        pretrained: False for random weights, of a model that is named.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``.

    Returns:
        One row an operand, in the order of the model: ``site``, ``op``, ``macs`` (multiply-accumulates of the site per
        image), ``operand``, ``shape`` (at batch size one) and ``producer`` (what computes it).

    Raises:
        ModelError: there is no such model, or its preprocessing is unknown.
        TraceError: it cannot be traced.

    Examples:
        >>> import autoq
        >>> table = autoq.sites("vit_digits")
        >>> table[table.site == "blocks.0.attn.qkv"].operand.tolist()
        ['input', 'weight']
    """
    import pandas as pd

    options = ModelOptions(preprocess, example_input, label_names, pretrained, device)
    traced = open_model(model, options).traced
    columns = ["site", "op", "macs", "operand", "shape", "producer"]
    rows = [
        (site.name, site.op, site.macs, operand.name, operand.shape, operand.producer)
        for site, operand in traced.operands()
    ]
    return pd.DataFrame(rows, columns=columns)


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe from its file, or the best of a search from its run directory.

    Its bank or its weights are looked for beside it when it is applied.

    Args:
        path: of a recipe's JSON file, a bundle, a folder with ``recipe.json``, or a run directory.

    Raises:
        RecipeNotFoundError: there is no such file.
        RecipeError: it is not JSON, or has a key or value that a recipe cannot have; the message names it.

    Examples:
        >>> import autoq
        >>> result = autoq.search(trials=4, calib_images=8, space="bits_only", fast=True)
        >>> autoq.load_recipe(result.folder / "recipes" / "w4a4.json") == result.recipe("w4a4")
        True
    """
    return pick_recipe(path).recipe
