"""Bytes of the quantized weights, with what it takes to decode them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from autoq.graph.sites import Operand, Site
from autoq.quantizers import quantizer_class
from autoq.recipe import FLOAT_BITS, OperandConfig, SiteConfig


def weight_bytes(sites: Iterable[Site], recipe_sites: Mapping[str, SiteConfig]) -> int:
    """Count the bytes of all weights of multiplying sites: those of :func:`operand_bytes`.

    Biases and norms are not counted: no recipe changes them.
    """
    return sum(site_weight_bytes(site, recipe_sites.get(site.name, {})) for site in sites)


def site_weight_bytes(site: Site, config: SiteConfig) -> int:
    """Count the bytes of one site's weights; 0 for LayerNorm and softmax."""
    weights = [operand for operand in site.operands if site.macs and operand.is_weight]
    return sum(operand_bytes(operand, config.get(operand.name)) for operand in weights)


def operand_bytes(operand: Operand, config: OperandConfig | None) -> int:
    """Count the bytes of a weight: its codes packed, and the parameters of its quantizer; 4 an element in float.

    Codes take ceil(elements × bits / 8) bytes, parameters ceil(entries × (32 + bits) / 8) with a scale and a zero
    point, and no zero point where it is fixed; formats with scales of 8 bits say so themselves.

    Args:
        operand: a weight.
        config: how it is quantized; None: it is not.
    """
    elements = math.prod(operand.shape)
    if config is None:
        return elements * FLOAT_BITS // 8
    parameter_bits = quantizer_class(config.scheme).parameter_bits(config, operand.layout, operand.shape)
    return math.ceil(elements * config.bits / 8) + math.ceil(parameter_bits / 8)
