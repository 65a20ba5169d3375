"""Tables and a picture of what ``benchmarks.search_quality`` has measured.

python -m benchmarks.search_quality_page studies/search_quality_vit_c10.jsonl docs/search_quality_vit_c10
    writes docs/search_quality_vit_c10.md and .png
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autoq.files import atomic_path, write_text
from autoq.optimization.front import hypervolume, non_dominated
from autoq.units import format_bops, format_kl
from benchmarks.result_lines import read_results

ORDER = ("progressive", "lampq", "ilp", "greedy", "nsga2", "tpe", "random", "uniform")
COLOURS = dict(
    zip(
        ORDER,
        ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#222222"),
        strict=True,
    )
)
STYLES = dict(
    zip(
        ORDER,
        (
            "-",
            (0, (6, 2)),
            (0, (1, 1.2)),
            (0, (6, 2, 1, 2)),
            (0, (3, 1.5)),
            (0, (1, 3)),
            (0, (8, 2, 1, 2, 1, 2)),
            (0, (10, 3)),
        ),
        strict=True,
    )
)
"""Dashes, so that lines are told apart without colour."""
NAMES = {
    "progressive": "autoq (progressive)",
    "lampq": "ILP, then swaps (LampQ)",
    "ilp": "ILP on sensitivities (HAWQ-V3, IGQ-ViT)",
    "greedy": "greedy by sensitivity (AIMET)",
    "nsga2": "NSGA-II",
    "tpe": "TPE",
    "random": "random",
    "uniform": "uniform",
}
Lines = list[dict[str, Any]]


def main() -> None:
    """Write both files."""
    source, target = Path(sys.argv[1]), sys.argv[2]
    lines = read_results(source)
    by_sampler: dict[str, Lines] = defaultdict(list)
    for line in lines:
        by_sampler[line["sampler"]].append(line)
    samplers = [name for name in ORDER if name in by_sampler]
    write_text(f"{target}.md", _page(source, lines, {name: by_sampler[name] for name in samplers}, target))
    with atomic_path(f"{target}.png") as temporary:
        _draw({name: by_sampler[name] for name in samplers}).savefig(temporary, dpi=160, format="png")


def _volume(line: dict[str, Any], points: Sequence[dict[str, Any]]) -> float:
    worst = max(point["kl_nats"] for point in line["points"] if point["uniform"])
    pairs = [(point["bops"], point["kl_nats"]) for point in points if point["kl_nats"] is not None]
    return hypervolume(pairs, (line["uniform_8_8"], worst)) / line["uniform_8_8"]


def _page(source: Path, lines: Lines, by_sampler: dict[str, Lines], target: str) -> str:
    first = lines[0]
    counts = sorted({count for line in lines for count in line["counts"]})
    budgets = first["budgets"]
    settings = f"--model local-dir:{first['model']} --images {first['images']} --choose {first['choose']}"
    command = f"python -m benchmarks.search_quality {settings} --results {source.name}"
    worst = max(point["kl_nats"] for point in first["points"] if point["uniform"])
    text = [
        f"# How good the samplers are: {first['model']}\n",
        f"`{command}` ({first['machine']}), drawn by "
        f"`python -m benchmarks.search_quality_page {source.name} {target}`. "
        f"{first['images']} images calibrated and {first['choose']} others chose, space `{first['space']}`, "
        f"budget {format_bops(first['limit'])} (w"
        f"{first['limit_bits']}a{first['limit_bits']}). All samplers evaluate the uniform points first, and have "
        f"the same bank and the same `{first['sensitivity']}` sensitivities, whose time is not counted. "
        "An evaluation is one joint evaluation of a whole recipe on all images.\n",
        f"Hypervolume (higher is better), in decades of KL: the share of the BOPs of uniform 8/8 "
        f"({format_bops(first['uniform_8_8'])}) times decades below KL {format_kl(worst)}, the worst uniform point's. "
        "Mean over seeds, and half the spread between them.\n",
        _table(
            ["sampler", "seeds", *(f"{count} evaluations" for count in counts)],
            [
                [NAMES[name], str(len(found)), *(_volumes(found, count) for count in counts)]
                for name, found in by_sampler.items()
            ],
        ),
    ]
    for count in counts:
        text += [
            f"\nLeast KL (nats) within a budget after {count} evaluations, mean over seeds:\n",
            _table(
                ["sampler", *budgets],
                [
                    [NAMES[name], *(_least(found, count, budget) for budget in budgets.values())]
                    for name, found in by_sampler.items()
                    if any(count <= max(line["counts"]) for line in found)
                ],
            ),
        ]
        text += [
            f"\nThose recipes on {first['choose']} images that neither calibrated nor chose them, beside the exact "
            "allocation of each budget by summed sensitivities, which evaluates nothing:\n",
            _table(
                ["sampler", *budgets],
                [
                    ["exact allocation", *(format_kl(each["unseen"]) for each in first["allocations"].values())],
                    *(
                        [NAMES[name], *(_unseen(_reaching(found, count), count, budget) for budget in budgets)]
                        for name, found in by_sampler.items()
                        if _reaching(found, count)
                    ),
                ],
            ),
        ]
    text.append(f"\n![Hypervolume against evaluations, and fronts]({Path(target).name}.png)\n")
    return "\n".join(text)


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def _reaching(found: Lines, count: int) -> Lines:
    """Runs that went on to ``count`` evaluations or ran out of proposals before."""
    return [line for line in found if max(line["counts"]) >= count]


def _volumes(found: Lines, count: int) -> str:
    values = [_volume(line, line["points"][:count]) for line in _reaching(found, count)]
    return "–" if not values else _spread(values, 3) + (f" ({len(values)})" if len(values) < len(found) else "")


def _spread(values: list[float], digits: int) -> str:
    half = (max(values) - min(values)) / 2
    return f"{statistics.mean(values):.{digits}f}" + (f" ± {half:.{digits}f}" if len(values) > 1 else "")


def _least(found: Lines, count: int, budget: int) -> str:
    values = [
        min(p["kl_nats"] for p in line["points"][:count] if p["kl_nats"] is not None and p["bops"] <= budget)
        for line in _reaching(found, count)
    ]
    return format_kl(statistics.mean(values)) if values else "–"


def _unseen(found: Lines, count: int, budget: str) -> str:
    return format_kl(statistics.mean(line["unseen"][str(count)][budget] for line in found))


def _draw(by_sampler: dict[str, Lines]) -> Figure:
    figure = Figure(figsize=(12.4, 5.8), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for name, found in by_sampler.items():
        longest = max(len(line["points"]) for line in found)
        steps = [n for n in np.unique(np.geomspace(8, longest, 60).round().astype(int)) if n <= longest]
        curves = [[_volume(line, line["points"][:n]) for n in steps if n <= len(line["points"])] for line in found]
        most = max(map(len, curves))
        rows = [curve + [np.nan] * (most - len(curve)) for curve in curves]
        mean = np.nanmean(rows, axis=0)
        width = 2.6 if name == "progressive" else 1.4
        left.plot(steps[:most], mean, color=COLOURS[name], linestyle=STYLES[name], linewidth=width, label=NAMES[name])
        left.fill_between(steps[:most], np.nanmin(rows, 0), np.nanmax(rows, 0), color=COLOURS[name], alpha=0.13)
        points = [p for p in found[0]["points"][:200] if p["kl_nats"] is not None]
        front = [points[i] for i in non_dominated([(p["bops"], p["kl_nats"]) for p in points])]
        x, y = [p["bops"] / 1e9 for p in front], [p["kl_nats"] for p in front]
        right.step(x, y, where="post", color=COLOURS[name], linestyle=STYLES[name], linewidth=width)
    left.set_xscale("log")
    left.set_xticks([10, 20, 50, 100, 200, 400, 800], ["10", "20", "50", "100", "200", "400", "800"])
    left.set_xlabel("joint evaluations")
    left.set_ylabel("hypervolume (share of w8a8's BOPs × decades of KL)")
    right.set_yscale("log")
    right.set_xlabel("G BOPs per image")
    right.set_ylabel("KL divergence from full precision (nats)")
    right.set_title("fronts after 200 evaluations, first seed", fontsize=10)
    left.set_title("mean over seeds, and their range", fontsize=10)
    for axes in (left, right):
        axes.grid(color="#e6e8eb")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    return figure


if __name__ == "__main__":
    main()
