"""What joint search changes: the recipe of a finished run beside the additive allocation for the same budget.

    python -m benchmarks.recipe_comparison autoq-runs/vit_c10-w4a4 joint_and_additive.png

The allocation for the budget is evaluated before what the run's sampler proposes. The picture has a row for each kind
of operand; what differs is printed as a table.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autoq.files import atomic_path
from autoq.optimization.space import load_space, resolve_space
from autoq.optimization.trials import ALLOCATION, EvaluatedTrial, best_trial
from autoq.quantizers import quantizer_class
from autoq.recipe import OperandConfig, SiteConfig
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.session import Session
from autoq.units import format_bops, format_kl

BLUE, VERMILION = "#0072b2", "#d55e00"
KINDS = {
    "weights": ("weight",),
    "layer inputs, left operands of products": ("input", "lhs"),
    "right operands": ("rhs",),
}


def main() -> None:
    """Draw and print."""
    run = SearchDirectory(sys.argv[1])
    record = run.require()
    trials = run.trials()
    best = best_trial(trials, record.limits)
    additive = [trial for trial in trials if trial.origin == ALLOCATION][-1]  # by all images: the first is by a few
    assert best is not None
    session = Session.open(record.settings.model, record.settings.pretrained, "cpu")
    space = resolve_space(load_space(record.settings.space), session.traced.sites)
    ours, theirs = space.sites_for(best.assignment), space.sites_for(additive.assignment)
    operands = [(plan.site, plan.operand.name) for plan in space.plans]
    figure = _draw(operands, ours, theirs, _caption("joint search", best), _caption("additive allocation", additive))
    with atomic_path(Path(sys.argv[2])) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    sys.stdout.write("| operand | additive | joint |\n| --- | --- | --- |\n")
    for site, operand in operands:
        one, other = theirs[site][operand], ours[site][operand]
        if one != other:
            sys.stdout.write(f"| {site}:{operand} | {_words(one)} | {_words(other)} |\n")
    for kind, names in KINDS.items():
        chosen = [key for key in operands if key[1] in names]
        means = [sum(recipe[s][o].bits for s, o in chosen) / len(chosen) for recipe in (theirs, ours)]
        sys.stdout.write(f"\nmean bits of {kind}: additive {means[0]:.2f}, joint {means[1]:.2f}")
    sys.stdout.write("\n")


def _caption(name: str, trial: EvaluatedTrial) -> str:
    return f"{name}: KL {format_kl(trial.score.kl_nats)} nats, {format_bops(trial.cost.bops)}"


def _words(config: OperandConfig) -> str:
    groups = f", {config.groups} groups" if config.groups > 1 else ""
    label = quantizer_class(config.scheme).label(config)
    base = f", log base {label.log_base}" if label.log_base else ""
    return f"{config.bits} bits{groups}{base}"


def _draw(
    operands: list[tuple[str, str]],
    ours: dict[str, SiteConfig],
    theirs: dict[str, SiteConfig],
    our_name: str,
    their_name: str,
) -> Figure:
    figure = Figure(figsize=(13, 8.4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (kind, names) in zip(figure.subplots(len(KINDS), 1), KINDS.items(), strict=True):
        chosen = [key for key in operands if key[1] in names]
        for recipe, color, marker, size, name in (
            (theirs, VERMILION, "D", 42, their_name),
            (ours, BLUE, "o", 30, our_name),
        ):
            bits = [recipe[site][operand].bits for site, operand in chosen]
            axes.plot(range(len(chosen)), bits, color=color, linewidth=0.8, alpha=0.6)
            axes.scatter(range(len(chosen)), bits, color=color, marker=marker, s=size, label=name, zorder=3)
            offset = 8 if recipe is ours else -14
            for index, (site, operand) in enumerate(chosen):
                if (groups := recipe[site][operand].groups) > 1:
                    axes.annotate(
                        f"g{groups}", (index, bits[index]), xytext=(0, offset), textcoords="offset points",
                        ha="center", fontsize=7, color=color,
                    )  # fmt: skip
        labels = [
            site.replace("blocks.", "").replace(".attn", "").replace(".mlp", "").replace("_embed.proj", "")
            for site, _ in chosen
        ]
        axes.set_xticks(range(len(chosen)), labels, rotation=60, ha="right", fontsize=8)
        axes.set_ylim(1.3, 8.9)
        axes.set_ylabel("bits")
        axes.set_title(kind, loc="left", fontsize=10)
        axes.grid(color="#e6e8eb")
        axes.spines[["top", "right"]].set_visible(False)
    handles, names_shown = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names_shown, loc="outside upper left", ncols=2, frameon=False, fontsize=10)
    return figure


if __name__ == "__main__":
    main()
