"""Draw results of ``benchmarks.reconstruction``: ``python -m benchmarks.reconstruction_page RESULTS... TARGET.png``."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autoq.files import atomic_path
from benchmarks.result_lines import read_results

Rows = list[dict[str, Any]]
STEPS = ("calibrated", "mse", "brecq", "aph", "aph, ReLU")
LABELS = ("calibrated\nonly", "squared\nerror", "BRECQ", "average\nperturbation\nHessian", "with MLP\nreconstruction")
MARKERS = {"w4a4": "o", "w3a3": "D", "w2a2": "s", "w3a2": "^"}
COLOURS = {"w4a4": "#0072b2", "w3a3": "#d55e00", "w2a2": "#009e73", "w3a2": "#cc79a7"}


def main() -> None:
    """Read results, draw, write."""
    *sources, target = sys.argv[1:]
    rows = [row for source in sources for row in read_results(Path(source))]
    counts = sorted({row["iterations"] for row in rows if row["importance"] == "mse"})
    shown = [row for row in rows if row["iterations"] in (0, *counts[:1])]
    figure = Figure(figsize=(12, 4.6), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{counts[0] if counts else 0:,} iterations a block; small points are seeds", fontsize=11)
    left, right = figure.subplots(1, 2)
    _ladder(left, shown, "top1_percent", "top-1 (%)")
    _ladder(right, shown, "kl_nats", "KL from full precision (nats)")
    for value in {row["full_precision_top1_percent"] for row in shown if "full_precision_top1_percent" in row}:
        left.axhline(value, color="#6b7280", linewidth=1, linestyle="--")
        left.annotate("full precision", (0.01, value), xycoords=("axes fraction", "data"), va="bottom", fontsize=9)
    right.set_yscale("log")
    right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.legend(frameon=False, loc="lower right")
    with atomic_path(target) as temporary:
        figure.savefig(temporary, dpi=160, format="png")


def _ladder(axes: Axes, rows: Rows, key: str, label: str) -> None:
    """A value at each step: a point a seed, a line through the means."""
    for bits in sorted({row["bits"] for row in rows}, reverse=True):
        means = []
        for place, step in enumerate(STEPS):
            found = [row[key] for row in rows if row["bits"] == bits and _step(row) == step]
            if found:
                means.append((place, statistics.mean(found)))
                axes.plot(
                    [place] * len(found),
                    found,
                    MARKERS.get(bits, "o"),
                    color=COLOURS.get(bits, "black"),
                    alpha=0.35,
                    markersize=5,
                )
        axes.plot(
            *zip(*means, strict=True),
            linestyle="-",
            marker=MARKERS.get(bits, "o"),
            color=COLOURS.get(bits, "black"),
            label=bits,
            markersize=7,
        )
    axes.set_xticks(range(len(STEPS)), LABELS, fontsize=9)
    axes.set_ylabel(label)
    axes.grid(color="#e6e8eb")
    axes.spines[["top", "right"]].set_visible(False)


def _step(row: dict[str, Any]) -> str:
    return f"{row['importance']}, ReLU" if row.get("relu") else str(row["importance"])


if __name__ == "__main__":
    main()
