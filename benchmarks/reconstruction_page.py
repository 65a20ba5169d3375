"""Draw results of ``benchmarks.reconstruction``: ``python -m benchmarks.reconstruction_page RESULTS... TARGET.png``."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autoq.files import atomic_path

Rows = list[dict[str, Any]]
STEPS = ("calibrated", "mse", "brecq", "aph", "aph, ReLU")
LABELS = ("calibrated\nonly", "squared\nerror", "BRECQ", "average\nperturbation\nHessian", "and MLP\nreconstruction")
COLOURS = {"w4a4": "#0072b2", "w3a3": "#d55e00", "w2a2": "#009e73", "w3a2": "#cc79a7"}


def main() -> None:
    """Read results, draw, write."""
    *sources, target = sys.argv[1:]
    rows = [json.loads(line) for source in sources for line in Path(source).read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(12, 4.8), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _ladder(left, rows)
    _iterations(right, rows)
    full = {row["full_precision_top1_percent"] for row in rows if "full_precision_top1_percent" in row}
    for axes in (left, right):
        axes.grid(color="#e6e8eb")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("top-1 (%)")
        for value in full:
            axes.axhline(value, color="#6b7280", linewidth=1, linestyle="--")
            axes.annotate("full precision", (0.01, value), xycoords=("axes fraction", "data"), va="bottom", fontsize=9)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=160, format="png")


def _ladder(axes: Axes, rows: Rows) -> None:
    """Top-1 of each step, a point a seed, a line through the means."""
    counts = sorted({row["iterations"] for row in rows if row["importance"] == "mse"})
    shown = [row for row in rows if row["iterations"] in (0, *counts[:1])]
    for bits in sorted({row["bits"] for row in shown}, reverse=True):
        means = []
        for place, step in enumerate(STEPS):
            found = [row["top1_percent"] for row in shown if row["bits"] == bits and _step(row) == step]
            if found:
                means.append((place, statistics.mean(found)))
                axes.plot([place] * len(found), found, "o", color=COLOURS.get(bits, "black"), alpha=0.35, markersize=5)
        axes.plot(*zip(*means, strict=True), "-o", color=COLOURS.get(bits, "black"), label=bits, markersize=7)
    axes.set_xticks(range(len(STEPS)), LABELS, fontsize=9)
    axes.set_title(f"{counts[0] if counts else 0:,} iterations a block; small points are seeds", fontsize=10)
    axes.legend(frameon=False, loc="lower right")


def _iterations(axes: Axes, rows: Rows) -> None:
    """Top-1 against iterations, with the average perturbation Hessian."""
    for bits in sorted({row["bits"] for row in rows}, reverse=True):
        for model, style in (("aph", "-o"), ("aph, ReLU", "--s")):
            found: dict[int, list[float]] = {}
            for row in rows:
                if row["bits"] == bits and _step(row) == model:
                    found.setdefault(row["iterations"], []).append(row["top1_percent"])
            if len(found) > 1:
                points = sorted((count, statistics.mean(values)) for count, values in found.items())
                label = f"{bits}, MLP reconstruction" if model != "aph" else bits
                axes.plot(*zip(*points, strict=True), style, color=COLOURS.get(bits, "black"), label=label)
    axes.set_xscale("log")
    axes.set_xlabel("iterations a block")
    axes.set_title("Hessian-weighted reconstruction against iterations", fontsize=10)
    if axes.lines:
        axes.legend(frameon=False, loc="lower right")


def _step(row: dict[str, Any]) -> str:
    return f"{row['importance']}, ReLU" if row.get("relu") else str(row["importance"])


if __name__ == "__main__":
    main()
