"""Bytes of the quantized weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from autoq.graph.sites import Site
from autoq.recipe import FLOAT_BITS, SiteConfig


def weight_bytes(sites: Iterable[Site], recipe_sites: Mapping[str, SiteConfig]) -> int:
    """Count the bytes of all weights with their codes packed: ceil(elements × bits / 8) each, 4 bytes per float.

    Scales, zero points, biases and norms are not counted: how they are stored is the runtime's affair.
    """
    total = 0
    for site in sites:
        for operand in site.operands:
            if site.macs and operand.is_weight:
                config = recipe_sites.get(site.name, {}).get(operand.name)
                total += math.ceil(math.prod(operand.shape) * (config.bits if config else FLOAT_BITS) / 8)
    return total
