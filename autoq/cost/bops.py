"""Bit operations of a recipe, per image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from autoq.cost.size import weight_bytes
from autoq.graph.bases import basis_block
from autoq.graph.sites import Operand, Site
from autoq.quantizers import quantizer_class
from autoq.recipe import FLOAT_BITS, CostRecord, OperandConfig, SiteConfig

TRANSFORM_BITS = 16
"""Width of the additions of a transform at run time."""


@dataclass(frozen=True)
class SiteCost:
    """Cost of one site, per image.

    Attributes:
        site: its name.
        macs: multiply-accumulates.
        bits: of its two operands; 32 for one in floating point.
        bops: macs × bits of one operand × bits of the other.
        group_bops: what is added to its products: rescaling of groups and blocks, what finds their scales at run time,
            and transforms of activations.
        has_weight: whether one operand is a parameter.
    """

    site: str
    macs: int
    bits: tuple[int, ...]
    bops: int
    group_bops: int
    has_weight: bool


@dataclass(frozen=True)
class ModelCost:
    """Cost of a recipe, per image; ``bops`` counts everything, the overhead of groups and transforms included.

    Attributes:
        sites: cost of each multiplying site.
        weight_bytes: size of the weights with their scales.
        activation_bytes: of the largest set of live activations; None: not known.
        latency_ns: by a latency table, in nanoseconds; None: there is none.
    """

    sites: tuple[SiteCost, ...]
    weight_bytes: int
    activation_bytes: int | None = None
    latency_ns: int | None = None

    @property
    def group_bops(self) -> int:
        """The part of ``bops`` that groups and transforms add."""
        return sum(site.group_bops for site in self.sites)

    @property
    def bops(self) -> int:
        """Bit operations of all sites, overhead included."""
        return sum(site.bops for site in self.sites) + self.group_bops

    @property
    def weight_layers_only_bops(self) -> int:
        """Products with a weight alone: no attention products, no overhead; as published for CNNs."""
        return sum(site.bops for site in self.sites if site.has_weight)

    def record(self) -> CostRecord:
        """Return the totals, as written into a recipe."""
        return CostRecord(
            bops=self.bops,
            group_bops=self.group_bops,
            weight_layers_only_bops=self.weight_layers_only_bops,
            weight_bytes=self.weight_bytes,
            activation_bytes=self.activation_bytes,
            latency_ns=self.latency_ns,
        )


def model_cost(sites: Iterable[Site], recipe_sites: Mapping[str, SiteConfig]) -> ModelCost:
    """Compute the cost of all multiplying sites under a recipe; sites and operands it does not name stay at 32 bits."""
    sites = tuple(sites)
    return ModelCost(
        tuple(site_cost(site, recipe_sites.get(site.name, {})) for site in sites if site.macs),
        weight_bytes(sites, recipe_sites),
    )


def site_cost(site: Site, config: SiteConfig) -> SiteCost:
    """Compute MACs × bits_a × bits_b over the site's two operands, and the overhead of groups and transforms."""
    bits = tuple(config[operand.name].bits if operand.name in config else FLOAT_BITS for operand in site.operands)
    overhead = 0
    for operand in site.operands:
        if operand.name in config:
            own = config[operand.name]
            overhead += group_overhead(site, operand, own, sum(bits)) + transform_overhead(operand, own)
    has_weight = any(operand.is_weight for operand in site.operands)
    return SiteCost(site.name, site.macs, bits, site.macs * math.prod(bits), overhead, has_weight)


def group_overhead(site: Site, operand: Operand, config: OperandConfig, bits_of_both: int) -> int:
    """Count the bit operations that scales of groups or blocks of one operand add; 0 where one scale is enough.

    With C channels (rows of an attention map, for instance-aware groups) in G groups and acc = bits_a + bits_b +
    ceil(log2(C / G)), the sums over groups are rescaled: MACs / C · G · acc · s, which is T·N·G·acc·s for T tokens that
    feed N outputs, with s bits in the significand of a scale (``BaseQuantizer.scale_significand_bits``). What finds
    scales at run time is added, see ``BaseQuantizer.assignment_bops``. A weight beside an input in floating point is
    decoded ahead, and costs nothing.

    Args:
        site: with products.
        operand: of the site.
        config: of the operand.
        bits_of_both: sum of the widths of the site's two operands.
    """
    quantizer, geometry = quantizer_class(config.scheme), operand.group_geometry
    channels = _summed_channels(operand) if geometry is None else geometry.channels
    groups = min(quantizer.groups_of(config, operand.layout, operand.shape), channels)
    if groups == 0 or (operand.is_weight and bits_of_both > FLOAT_BITS):
        return 0
    accumulator_bits = bits_of_both + math.ceil(math.log2(channels / groups))
    rescaling = site.macs // channels * groups * accumulator_bits * quantizer.scale_significand_bits
    if operand.is_weight:
        return rescaling
    elements, entries = math.prod(operand.shape), channels
    if geometry is not None:
        elements, entries = (geometry.copies * each for each in (geometry.tokens * geometry.channels, channels))
    return rescaling + quantizer.assignment_bops(config, elements, entries)


def _summed_channels(operand: Operand) -> int:
    """Return how many products each output sums up; 0 where that is not known."""
    if operand.is_weight and operand.name == "weight":
        is_transposed = operand.layout.channel_axis != -operand.layout.ndim
        return operand.shape[0] if is_transposed else math.prod(operand.shape[1:])
    axis = operand.layout.summed_axis
    return 0 if axis is None else operand.shape[axis]


def transform_overhead(operand: Operand, config: OperandConfig) -> int:
    """Count the bit operations of transforming an activation before it is quantized; weights are transformed ahead.

    With T tokens × C channels in blocks of b channels, the fast Hadamard transform takes T·C·log2(b) additions
    (Fino and Algazi, "Unified Matrix Treatment of the Fast Walsh-Hadamard Transform", 1976), of 16-bit numbers.

    >>> from autoq.quantizers import OperandLayout
    >>> operand = Operand("input", (1, 50, 384), "gelu", OperandLayout(3, -1, summed_axis=-1))
    >>> transform_overhead(operand, OperandConfig(scheme="hadamard", bits=4, hadamard_block=128)) // 16
    134400
    """
    block = 1 if operand.is_weight else basis_block(operand, config)
    return math.prod(operand.shape) * (block.bit_length() - 1) * TRANSFORM_BITS


def uniform_bops(sites: Iterable[Site], weight_bits: int, activation_bits: int) -> int:
    """Count the BOPs with every weight at one width and every activation at another, in one group."""
    total = 0
    for site in sites:
        bits = [weight_bits if operand.is_weight else activation_bits for operand in site.operands]
        total += site.macs * math.prod(bits) if site.macs else 0
    return total
