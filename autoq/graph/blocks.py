"""Blocks: runs of stages whose output is reconstructed as one."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from autoq.errors import RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import Stage
from autoq.validation import did_you_mean


@dataclass(frozen=True)
class Block:
    """A run of stages.

    Attributes:
        name: module path that its weight layers have in common (``blocks.3``), or the path of its only one.
        first: index of its first stage.
        last: index of its last stage.
        sites: names of the sites in it, in execution order.
    """

    name: str
    first: int
    last: int
    sites: tuple[str, ...]

    @property
    def stages(self) -> range:
        """Indices of its stages, in order."""
        return range(self.first, self.last + 1)


def find_blocks(model: QuantizedModel) -> tuple[Block, ...]:
    """Divide a model into blocks, in execution order; every stage is in one.

    Stages belong together if their sites are in the same numbered module: both halves of a transformer block, which
    residual branches cut in two. Stages without a weight (a LayerNorm between blocks) go with what follows them.
    """
    weighted = {site.name for site in model.traced.sites if site.macs and any(each.is_weight for each in site.operands)}
    groups: list[list[int]] = []
    modules: list[str | None] = []  # of each group, once it has a weight
    for index, stage in enumerate(model.stages):
        sites = [site for site in stage.sites if site in weighted]
        module = _numbered_module(sites) if sites else None
        if groups and (modules[-1] is None or module == modules[-1]):
            groups[-1].append(index)
            modules[-1] = modules[-1] if module is None else module
        else:
            groups.append([index])
            modules.append(module)
    if len(groups) > 1 and modules[-1] is None:  # nothing follows
        groups[-2:] = [groups[-2] + groups[-1]]
    return tuple(_block(model.stages, group, weighted) for group in groups)


def choose_blocks(blocks: Sequence[Block], names: Collection[str] | None) -> tuple[Block, ...]:
    """Choose blocks by name, or all, in execution order.

    Raises:
        RecipeError: there is no block of that name.
    """
    if names is None:
        return tuple(blocks)
    known = [block.name for block in blocks]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or f" There are {', '.join(known)}."
            raise RecipeError(f"the model has no block {name!r}.{hint}")
    return tuple(block for block in blocks if block.name in names)


def _block(stages: Sequence[Stage], group: Sequence[int], weighted: Collection[str]) -> Block:
    sites = tuple(site for index in group for site in stages[index].sites)
    named = [site for site in sites if site in weighted] or list(sites)
    return Block(_common_module(named) or named[-1], group[0], group[-1], sites)


def _numbered_module(sites: Sequence[str]) -> str:
    """The innermost numbered module that holds all sites; their common module if none is numbered."""
    parts = _common_module(sites).split(".")
    last = max((index for index, part in enumerate(parts) if part.isdigit()), default=len(parts) - 1)
    return ".".join(parts[: last + 1])


def _common_module(sites: Sequence[str]) -> str:
    shared = itertools.takewhile(
        lambda parts: len(set(parts)) == 1, zip(*(site.split(".") for site in sites), strict=False)
    )
    return ".".join(parts[0] for parts in shared)
