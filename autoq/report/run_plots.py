"""Figures of a run beside its front: how the search went, and the bits of a recipe block by block."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from autoq.recipe import SiteConfig
from autoq.recipe.operands import FLOAT_BITS
from autoq.report.figures import new_axes
from autoq.report.plots import BLUE, GRID, INK, SOFT
from autoq.report.summary import RunSummary, SiteRow
from autoq.report.text import literal_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

ROLES = ("weights", "activations", "attention")
"""What operands are: weights, inputs of layers, operands of products of activations."""
_PRODUCTS = ("matmul", "bmm", "einsum")
_WIDEST = 8
"""Bits of the darkest colour."""


def plot_history(summary: RunSummary, ax: Axes | None = None) -> Axes:
    """Draw the loss of every evaluation within the budgets, and the least so far.

    Args:
        summary: of the run.
        ax: where to draw; None: on a figure of its own, which notebooks show.
    """
    with literal_text():
        axes = new_axes(ax, 7.6, 4.2)
        found = [(number, p.loss) for number, p in enumerate(summary.points, start=1) if p.feasible]
        best: list[tuple[int, float]] = []
        for number, loss in found:
            if not best or loss < best[-1][1]:
                best.append((number, loss))
        if found:
            numbers, losses = zip(*found, strict=True)
            axes.scatter(numbers, losses, s=12, color=SOFT, alpha=0.4, linewidths=0, label="evaluations")
            steps = [*best, (len(summary.points), best[-1][1])]
            axes.step(*zip(*steps, strict=True), where="post", color=BLUE, linewidth=1.8, label="least so far")
            axes.legend(frameon=False, fontsize=10)
        if any(loss > 0 for _, loss in found):
            axes.set_yscale("log", nonpositive="clip")
        axes.set_xlabel("evaluations", fontsize=10.5)
        axes.set_ylabel(summary.loss.axis_label, fontsize=10.5)
        axes.grid(visible=True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    return axes


def plot_bits(recipe: Mapping[str, SiteConfig], sites: Sequence[SiteRow], ax: Axes | None = None) -> Axes:
    """Draw the mean bits of a recipe's weights, activations and attention products, block by block.

    Args:
        recipe: the sites of the recipe.
        sites: of the model, in network order.
        ax: where to draw; None: on a figure of its own, which notebooks show.
    """
    import matplotlib as mpl

    means = block_bits(recipe, sites)
    colors = mpl.colormaps["Blues"]
    with literal_text():
        axes = new_axes(ax, 5.4, 0.9 + 0.34 * max(len(means), 3))
        for line, bits in enumerate(means.values()):
            for column, role in enumerate(ROLES):
                _draw_cell(axes, column, line, bits.get(role), colors)
        axes.set(xlim=(0, len(ROLES)), ylim=(max(len(means), 1), 0))
        axes.set_xticks([column + 0.5 for column in range(len(ROLES))], ROLES)
        axes.set_yticks([line + 0.5 for line in range(len(means))], list(means))
        axes.tick_params(length=0, labelsize=10, colors=INK, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"mean bits; {FLOAT_BITS}: floating point", fontsize=9, color=SOFT)
    return axes


def _draw_cell(axes: Axes, column: int, line: int, bits: float | None, colors: Colormap) -> None:
    from matplotlib.patches import Rectangle

    shade = 0.0 if bits is None else 0.15 + 0.75 * min(bits / _WIDEST, 1.0)
    face = "#f4f4f6" if bits is None else colors(shade)
    axes.add_patch(Rectangle((column, line), 1, 1, facecolor=face, edgecolor="white", linewidth=1.5))
    text = "" if bits is None else f"{bits:.0f}" if bits == FLOAT_BITS else f"{bits:.1f}"
    color = "white" if shade > 0.6 else INK
    axes.text(column + 0.5, line + 0.53, text, ha="center", va="center", fontsize=10, color=color)


def block_bits(recipe: Mapping[str, SiteConfig], sites: Sequence[SiteRow]) -> dict[str, dict[str, float]]:
    """Average bits over the operands of each block, by role, without what multiplies nothing in floating point.

    >>> from autoq.recipe import OperandConfig
    >>> site = SiteRow("blocks.0.attn.qkv", "linear", 1, ("input", "weight"))
    >>> block_bits({site.name: {"weight": OperandConfig(scheme="uniform", bits=4)}}, [site])
    {'blocks.0': {'activations': 32.0, 'weights': 4.0}}
    """
    found: dict[str, dict[str, list[int]]] = {}
    for site in sites:
        configs = recipe.get(site.name, {})
        if not site.macs and not configs:
            continue
        block = found.setdefault(_block_of(site.name), {})
        for operand in site.operands:
            role = ROLES[2] if site.op in _PRODUCTS else ROLES[0] if operand == "weight" else ROLES[1]
            block.setdefault(role, []).append(configs[operand].bits if operand in configs else FLOAT_BITS)
    return {name: {role: sum(bits) / len(bits) for role, bits in roles.items()} for name, roles in found.items()}


def _block_of(site: str) -> str:
    """Return the innermost numbered module that a site is in, or the site itself."""
    match = re.match(r"(?:.*\.)?\d+(?=\.)", site)
    return match[0] if match else site
