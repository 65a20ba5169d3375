"""FQ-ViT's integer LayerNorm and softmax in place of the nodes whose quantizers ask for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from autoq.errors import RecipeError
from autoq.graph.consumers import consumers, source_site
from autoq.graph.insert import OperandKey
from autoq.graph.trace import TracedModel
from autoq.quantizers import BaseQuantizer, quantizer_class
from autoq.quantizers.integer_layer_norm import IntegerLayerNorm
from autoq.quantizers.integer_softmax import IntegerSoftmax
from autoq.recipe import OperandConfig, SiteConfig

Solved = Callable[[str, str, OperandConfig], BaseQuantizer]
"""From site, operand and configuration to the solved quantizer."""


def integer_operations(traced: TracedModel, sites: Mapping[str, SiteConfig], solved: Solved) -> dict[str, nn.Module]:
    """Make the integer operations that a recipe's schemes ask for (``BaseQuantizer.integer_operation``).

    A LayerNorm's output is rounded to the step of the quantizer that it feeds, the finest if it feeds several. Where
    logarithms after a softmax have the published (2^bits + 1)-th level, it has the published step too.

    Args:
        traced: the model.
        sites: of the recipe.
        solved: gives the quantizers.

    Returns:
        Modules for ``QuantizedModel.replace_``, by site.

    Raises:
        RecipeError: a scheme that needs an integer softmax (``log_int_softmax``) comes after something that is no
            softmax, or after one whose input has no affine quantizer for the whole tensor; or one that needs an integer
            LayerNorm (``power_of_two_factor``) quantizes something else than a LayerNorm's input or what a sum adds.
    """
    operations: dict[str, nn.Module] = {}
    for site, operands in sites.items():
        for operand, config in operands.items():
            operation = quantizer_class(config.scheme).integer_operation
            if traced.sites_by_name[site].is_optional:
                continue  # sums are of the values: whole multiples of one step, if both summands have that
            if operation == "layer_norm":
                operations[site] = _layer_norm(traced, sites, (site, operand), config, solved)
            elif operation == "softmax":
                softmax, step = _scores(traced, sites, (site, operand), config, solved)
                operations[softmax] = IntegerSoftmax(step, published=config.overflow == "extra_zero")
    return operations


def _layer_norm(
    traced: TracedModel, sites: Mapping[str, SiteConfig], key: OperandKey, config: OperandConfig, solved: Solved
) -> IntegerLayerNorm:
    site, operand = key
    if traced.sites_by_name[site].op != "layer_norm":
        raise RecipeError(f"{site} is no LayerNorm: {config.scheme} is for the inputs of LayerNorms; use uniform")
    steps = []
    for consumer, consumed in consumers(traced, site) or ():
        fed = sites.get(consumer, {}).get(consumed)
        step = None if fed is None else _step(solved(consumer, consumed, fed))
        if step is not None:
            steps.append(step)
    scale = solved(site, operand, config).qparams()["scale"]
    return IntegerLayerNorm(float(scale), torch.tensor(min(steps)) if steps else None)


def _scores(
    traced: TracedModel, sites: Mapping[str, SiteConfig], key: OperandKey, config: OperandConfig, solved: Solved
) -> tuple[str, float]:
    """Find the softmax before an operand, and the step of its input's quantizer."""
    site, operand = key
    softmax = source_site(traced, site, operand)
    if softmax is None or traced.sites_by_name[softmax].op != "softmax":
        raise RecipeError(
            f"{site}:{operand} does not come from a softmax: {config.scheme} is for attention maps; use uniform"
        )
    scores = sites.get(softmax, {}).get("input")
    step = None if scores is None else _step(solved(softmax, "input", scores))
    if step is None:
        raise RecipeError(
            f"{site}:{operand} has scheme {config.scheme}, whose exponential is of integers: give '{softmax}' an input "
            "with scheme uniform and granularity tensor, or use log2"
        )
    return softmax, step


def _step(quantizer: BaseQuantizer) -> float | None:
    """Return the number whose whole multiples all values of a quantizer are; None if there is no such number."""
    affine = quantizer.affine_qparams()
    return float(affine[0]) if affine is not None and affine[0].numel() == 1 else None
