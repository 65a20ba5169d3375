"""Bytes of the quantized weights, with what it takes to decode them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from autoq.graph.sites import Operand, Site
from autoq.quantizers import quantizer_class
from autoq.recipe import FLOAT_BITS, OperandConfig, SiteConfig

PARAMETER_BITS = 32
"""Width of a scale, and of every parameter of a quantizer but the zero point, which is as wide as a code."""


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
    point, and no zero point where it is fixed.

    Args:
        operand: a weight.
        config: how it is quantized; None: it is not.
    """
    elements = math.prod(operand.shape)
    if config is None:
        return elements * FLOAT_BITS // 8
    return math.ceil(elements * config.bits / 8) + math.ceil(_parameter_bits(operand, config) / 8)


def _parameter_bits(operand: Operand, config: OperandConfig) -> int:
    quantizer = quantizer_class(config.scheme)
    entries = math.prod(quantizer.range_shape(config, operand.layout, operand.shape))
    widths = {"zero_point": 0 if config.symmetric else config.bits}
    return entries * sum(widths.get(name, PARAMETER_BITS) for name in quantizer.qparam_names)
