"""FQ-ViT's integer LayerNorm and softmax: which nodes a recipe replaces by them, and with which scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from autoq.errors import RecipeError
from autoq.graph.consumers import consumers, source_site
from autoq.graph.trace import TracedModel
from autoq.quantizers import BaseQuantizer
from autoq.quantizers.integer_layer_norm import IntegerLayerNorm
from autoq.quantizers.integer_softmax import IntegerSoftmax
from autoq.recipe import OperandConfig, SiteConfig

Solved = Callable[[str, str, OperandConfig], BaseQuantizer]
"""From site, operand and configuration to the solved quantizer."""


def integer_operations(traced: TracedModel, sites: Mapping[str, SiteConfig], solved: Solved) -> dict[str, nn.Module]:
    """The LayerNorm and softmax sites that run in integers under a recipe.

    A LayerNorm does whose input has ``power_of_two_factor``; its output is rounded to the step of the quantizer that it
    feeds, the finest if it feeds several. A softmax does whose output has ``log_int_softmax``.

    Args:
        traced: the model.
        sites: of the recipe.
        solved: gives the quantizers.

    Returns:
        Modules for ``QuantizedModel.replace_``, by site.

    Raises:
        RecipeError: ``log_int_softmax`` without a uniform quantizer, one for the whole tensor, before the softmax, or
            after something that is no softmax; ``power_of_two_factor`` elsewhere than before a LayerNorm.
    """
    operations: dict[str, nn.Module] = {}
    for site, operands in sites.items():
        for operand, config in operands.items():
            if config.scheme == "power_of_two_factor":
                operations[site] = _layer_norm(traced, sites, site, solved(site, operand, config), solved)
            elif config.scheme == "log_int_softmax":
                softmax, scores = _scores(traced, sites, f"{site}:{operand}", source_site(traced, site, operand))
                operations[softmax] = IntegerSoftmax(_only(solved(softmax, "input", scores).scale))
    return operations


def _layer_norm(
    traced: TracedModel, sites: Mapping[str, SiteConfig], site: str, quantizer: BaseQuantizer, solved: Solved
) -> IntegerLayerNorm:
    if traced.sites_by_name[site].op != "layer_norm":
        raise RecipeError(f"{site} is no LayerNorm: power_of_two_factor is for the inputs of LayerNorms; use uniform")
    steps = []
    for consumer, operand in consumers(traced, site) or ():
        config = sites.get(consumer, {}).get(operand)
        if config is not None and config.scheme == "uniform" and config.granularity == "tensor":
            steps.append(_only(solved(consumer, operand, config).scale))
    return IntegerLayerNorm(_only(quantizer.scale), torch.tensor(min(steps)) if steps else None)


def _scores(
    traced: TracedModel, sites: Mapping[str, SiteConfig], name: str, softmax: str | None
) -> tuple[str, OperandConfig]:
    """The softmax before an operand, and how its input is quantized."""
    if softmax is None or traced.sites_by_name[softmax].op != "softmax":
        raise RecipeError(f"{name} does not come from a softmax: log_int_softmax is for attention maps; use uniform")
    scores = sites.get(softmax, {}).get("input")
    if scores is None or scores.scheme != "uniform" or scores.granularity != "tensor":
        raise RecipeError(
            f"{name} has scheme log_int_softmax, whose exponential is of integers: give '{softmax}' an input with "
            "scheme uniform and granularity tensor, or use log2"
        )
    return softmax, scores


def _only(scale: Tensor | nn.Module) -> float:
    assert isinstance(scale, Tensor)  # noqa: S101 - nn.Module's attributes are declared as either
    return float(scale)
