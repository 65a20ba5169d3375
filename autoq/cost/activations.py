"""Bytes of the activations that are alive at once.

Each element that has to be kept (``autoq.graph.live``) is stored once, at the most bits that any of its readers takes
it at: the width of an operand's quantizer, 32 for one in floating point and for everything that is no operand. Scales
of activations are not counted: there are few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from autoq.graph.live import LiveRegion, LiveSets, Reader
from autoq.recipe import FLOAT_BITS, SiteConfig


def activation_bytes(live: LiveSets, recipe_sites: Mapping[str, SiteConfig]) -> int:
    """Count the bytes of the largest set of activations that are alive at one step, per image.

    >>> from autoq.graph.live import LiveRegion, LiveSets
    >>> from autoq.recipe import OperandConfig
    >>> live = LiveSets((LiveRegion(10, (("fc", "input"),)), LiveRegion(5, (None,))), ((0, 1),))
    >>> activation_bytes(live, {"fc": {"input": OperandConfig(scheme="uniform", bits=4)}})
    25
    """
    sizes = [region_bytes(region, recipe_sites) for region in live.regions]
    return max((sum(sizes[region] for region in step) for step in live.steps), default=0)


def region_bytes(region: LiveRegion, recipe_sites: Mapping[str, SiteConfig]) -> int:
    """Count the bytes of elements with the same readers: ceil(elements × bits / 8)."""
    return packed_bytes(region.elements, max(_bits(reader, recipe_sites) for reader in region.readers))


def packed_bytes(elements: int, bits: int) -> int:
    """Count the bytes of elements of one width."""
    return math.ceil(elements * bits / 8)


def _bits(reader: Reader, recipe_sites: Mapping[str, SiteConfig]) -> int:
    config = None if reader is None else recipe_sites.get(reader[0], {}).get(reader[1])
    return FLOAT_BITS if config is None else config.bits
