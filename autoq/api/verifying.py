"""``autoq.verify``."""

from __future__ import annotations

import os

from autoq.api.exporting import source_of
from autoq.api.opening import ModelInput
from autoq.recipe import Recipe
from autoq.scoring.integer_products import IntegerTruth, verify_products
from autoq.scoring.quantized_module import QuantizedModule


def verify(
    quantized: QuantizedModule | Recipe | str | os.PathLike[str],
    *,
    model: ModelInput | None = None,
    images: object = None,
    count: int = 16,
) -> IntegerTruth:
    """Compute the products of a quantized model on integer codes, and compare them with what autoq simulates.

    Args:
        quantized: a quantized model, a recipe, or the path of one or of a run directory (its best).
        model: the recipe's model, if it cannot be loaded by its name.
        images: the recipe's calibration images, if they cannot be loaded by their name.
        count: how many of them are run.

    Returns:
        Site by site, the difference, and how wide an accumulator must be; and which sites multiply no integers.

    Examples:
        >>> import autoq
        >>> quantized = autoq.quantize("vit_digits", "rtn", images="digits", bits="w4a4", calib_images=8)
        >>> found = autoq.verify(quantized, count=4)
        >>> all(product.is_equal for product in found.products), found.overflowing(16)
        (True, [])
    """
    source = source_of(quantized, model, images, count)
    return verify_products(source.module, source.images)
