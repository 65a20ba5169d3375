"""All that a recipe of one model costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from autoq.cost.activations import activation_bytes
from autoq.cost.bops import ModelCost, model_cost, site_cost
from autoq.cost.kinds import ACTIVATIONS, BOPS, LATENCY, SIZE, CostKind
from autoq.cost.latency import LatencyTable
from autoq.cost.size import site_weight_bytes
from autoq.errors import BudgetError
from autoq.graph.live import LiveSets
from autoq.graph.sites import Site
from autoq.recipe import OperandConfig, SiteConfig


@dataclass(frozen=True)
class CostModel:
    """Costs of the recipes of one model.

    Attributes:
        sites: of the model.
        live: its live activations; None: their size is not known.
        latency: measured times; None: latency is not known.
    """

    sites: Sequence[Site]
    live: LiveSets | None = None
    latency: LatencyTable | None = None

    def with_latency(self, table: LatencyTable | None) -> CostModel:
        """Return the same with a latency table."""
        return replace(self, latency=table)

    def cost(self, recipe_sites: Mapping[str, SiteConfig]) -> ModelCost:
        """Compute all costs of a recipe that are known.

        Raises:
            BudgetError: the latency table lacks an option.
        """
        return replace(
            model_cost(self.sites, recipe_sites),
            activation_bytes=None if self.live is None else activation_bytes(self.live, recipe_sites),
            latency_ns=None if self.latency is None else self.latency.nanoseconds(self.sites, recipe_sites),
        )

    def site_cost(self, kind: CostKind, site: Site, config: SiteConfig) -> int:
        """Compute the part of one site in a cost that adds up over sites."""
        if kind == BOPS:
            if not site.macs:
                return 0
            cost = site_cost(site, config)
            return cost.bops + cost.group_bops
        if kind == SIZE:
            return site_weight_bytes(site, config)
        if kind == LATENCY and self.latency is not None:
            return self.latency.site_time(site, config)
        raise ValueError(f"{kind.title} do not add up over sites")

    def total(self, kind: CostKind, recipe_sites: Mapping[str, SiteConfig]) -> int:
        """Compute one cost of a recipe, without the others.

        Raises:
            BudgetError: the cost is not known, or the latency table lacks an option.
        """
        if kind == ACTIVATIONS:
            if self.live is None:
                raise BudgetError(f"{kind.title} of this model are not known")
            return activation_bytes(self.live, recipe_sites)
        if kind == LATENCY and self.latency is None:
            raise BudgetError("a budget of latency needs measured times: give --latency-table FILE")
        found = sum(self.site_cost(kind, site, recipe_sites.get(site.name, {})) for site in self.sites)
        return self.rest_cost(kind) + found

    def rest_cost(self, kind: CostKind) -> int:
        """Return the part of a cost that no site has."""
        return self.latency.rest_nanoseconds if kind == LATENCY and self.latency is not None else 0

    def uniform(self, kind: CostKind, weight_bits: int, activation_bits: int) -> int:
        """Compute the cost with every weight at one width and every activation at another, 32 being floating point.

        Weights have a scale and a zero point a channel, activations are in one group.

        Raises:
            BudgetError: the cost is not known, or not of these widths.
        """
        sites = {
            site.name: {
                operand.name: _uniform(weight_bits if operand.is_weight else activation_bits, operand.is_weight)
                for operand in site.operands
                if (weight_bits if operand.is_weight else activation_bits) <= _MOST_BITS
            }
            for site in self.sites
            if site.macs
        }
        return self.total(kind, sites)

    @cached_property
    def float_cost(self) -> ModelCost:
        """The cost of the model in floating point; without latency, which a table need not have of it."""
        return replace(self, latency=None).cost({})


_MOST_BITS = 16


def _uniform(bits: int, is_weight: bool) -> OperandConfig:
    return OperandConfig(scheme="uniform", bits=bits, granularity="channel" if is_weight else "tensor")
