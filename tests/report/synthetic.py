"""A made-up run with the shape of a real one: additive site sensitivities, mutated recipes, a front."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from autoq.optimization.front import non_dominated
from autoq.report.points import Improved, Point
from autoq.report.summary import Meaning, RunSummary, SiteRow
from autoq.tasks import CLASSIFICATION, DenseTask

Bits = dict[tuple[str, str], int]
HIDDEN = 96
TOKENS = 65


def make_sites(blocks: int = 4) -> tuple[SiteRow, ...]:
    rows = [SiteRow("patch_embed.proj", "conv2d", (TOKENS - 1) * 48 * HIDDEN, ("input", "weight"))]
    for block in range(blocks):
        for name, op, macs, operands in (
            ("attn.qkv", "linear", TOKENS * HIDDEN * 3 * HIDDEN, ("input", "weight")),
            ("attn.qk", "matmul", TOKENS * TOKENS * HIDDEN, ("lhs", "rhs")),
            ("attn.av", "matmul", TOKENS * TOKENS * HIDDEN, ("lhs", "rhs")),
            ("attn.proj", "linear", TOKENS * HIDDEN * HIDDEN, ("input", "weight")),
            ("mlp.fc1", "linear", TOKENS * HIDDEN * 4 * HIDDEN, ("input", "weight")),
            ("mlp.fc2", "linear", TOKENS * HIDDEN * 4 * HIDDEN, ("input", "weight")),
        ):
            rows.append(SiteRow(f"blocks.{block}.{name}", op, macs, operands))
    return (*rows, SiteRow("head", "linear", HIDDEN * 10, ("input", "weight")))


def make_recipe(sites: tuple[SiteRow, ...], bits: Bits, rng: random.Random, *, groups: bool) -> dict[str, Any]:
    configured: dict[str, Any] = {}
    for row in sites:
        configured[row.name] = {}
        for operand in row.operands:
            config: dict[str, Any] = {"scheme": "uniform", "bits": bits[row.name, operand]}
            if operand == "weight":
                config["granularity"] = "channel"
            elif row.name.endswith("attn.av") and operand == "lhs":
                config |= {"scheme": "adalog", "log_base_numerator": rng.choice((23, 31, 37, 52))}
            elif row.name.endswith("mlp.fc2"):
                config |= {"scheme": "adalog"}
            elif groups and row.name.endswith(("attn.qkv", "mlp.fc1")) and rng.random() < 0.6:
                config |= {"scheme": "instance_groups", "groups": rng.choice((2, 4, 8))}
            configured[row.name][operand] = config
    model = {"name": "vit_digits", "weights_sha256": "0" * 64}
    return {"schema_version": 1, "model": model, "sites": configured}


def make_summary(
    *, trials: int = 200, blocks: int = 4, labels: bool = True, budget_text: str = "w4a4", seed: int = 0
) -> RunSummary:
    """Uniform 2/2 to 8/8, then mutations of the front under the budget."""
    rng = random.Random(seed)
    sites = make_sites(blocks)
    operands = [(row.name, operand) for row in sites for operand in row.operands]
    importance = {key: math.exp(rng.gauss(0, 2.0)) for key in operands}
    norm = sum(importance.values())

    def bops_of(bits: Bits) -> int:
        return sum(row.macs * math.prod(bits[row.name, operand] for operand in row.operands) for row in sites)

    def kl_of(bits: Bits) -> float:
        return 18.0 * sum(importance[key] * 4.0 ** -bits[key] for key in operands) / norm * math.exp(rng.gauss(0, 0.03))

    def uniform_bits(width: int) -> Bits:
        return dict.fromkeys(operands, width)

    budget = bops_of(uniform_bits(4))
    candidates: list[tuple[str, str, str, Bits, int, float]] = []
    for width in range(2, 9):
        bits = uniform_bits(width)
        candidates.append(("uniform", f"w{width}a{width}", f"w{width}a{width}", bits, bops_of(bits), kl_of(bits)))
    targets = [budget * share for share in (0.4, 0.7, 1.0, 1.0, 1.0, 1.6, 2.4)]
    best_within = {target: min((c for c in candidates if c[4] <= target), key=lambda c: c[5]) for target in targets}
    for number in range(7, 7 + trials):
        parent = best_within[rng.choice(targets)]
        bits = {
            key: min(8, max(2, width + rng.choice((-1, 0, 1)))) if rng.random() < 0.3 else width
            for key, width in parent[3].items()
        }
        candidates.append(("sampler", f"trial-{number}", f"trial {number}", bits, bops_of(bits), kl_of(bits)))
        for target, best in best_within.items():
            if candidates[-1][4] <= target and candidates[-1][5] < best[5]:
                best_within[target] = candidates[-1]

    points = []
    front = set(non_dominated([(float(bops), kl) for *_, bops, kl in candidates]))
    for index, (origin, name, label, bits, bops, kl) in enumerate(candidates):
        dominated = index not in front
        listed = not dominated or origin == "uniform"
        points.append(
            Point(
                id=name,
                origin=origin,
                label=label,
                bops=bops,
                group_bops=0 if origin == "uniform" else bops // 60,
                weight_layers_only_bops=int(bops * 0.86),
                weight_bytes=sum(row.macs // TOKENS * bits[row.name, row.operands[1]] // 8 for row in sites),
                kl_nats=kl,
                agreement_percent=100 * math.exp(-0.4 * kl),
                sqnr_db=14 - 10 * math.log10(kl),
                metric=97.9 - 12 * min(kl, 5) + rng.gauss(0, 0.15) if labels and listed else None,
                feasible=bops <= budget,
                on_front=not dominated,
                recipe=make_recipe(sites, bits, random.Random(f"{seed} {name}"), groups=origin != "uniform"),
                recipe_path=f"recipes/{name}.json" if not dominated else None,
            )
        )
    best = min((p for p in points if p.feasible), key=lambda p: p.kl_nats, default=None)
    macs = sum(row.macs for row in sites)
    return RunSummary(
        model="vit_digits",
        data="digits",
        images=128,
        budgets={"bops": (budget_text, budget)},
        points=tuple(points),
        sites=sites,
        best_id=best.id if best else None,
        full_precision_bops=macs * 32 * 32,
        macs=macs,
        meaning=Meaning.of(CLASSIFICATION),
        full_precision_metric=97.9 if labels else None,
        eval_data="digits, held out" if labels else None,
        eval_images=360 if labels else None,
        hypervolume=2.41,
        hypervolume_reference="BOPs of uniform 8/8, KL of uniform 2/2, log10 of KL",
        directory="runs/digits",
        settings={"seed": "0", "sampler": "tpe", "trials": str(trials + 7), "torch": "2.9.0", "wall time": "48 s"},
    )


def with_points(summary: RunSummary, keep: Callable[[Point], bool]) -> RunSummary:
    """The same run with only some of its points, without a best one if that is gone."""
    points = tuple(point for point in summary.points if keep(point))
    best_id = summary.best_id if any(point.id == summary.best_id for point in points) else None
    return replace(summary, points=points, best_id=best_id)


def with_budget(summary: RunSummary, bops: int) -> RunSummary:
    """The run with another budget of BOPs, as far as its points tell."""
    points = tuple(replace(point, feasible=point.bops <= bops) for point in summary.points)
    return replace(summary, points=points, budgets={"bops": (summary.budget_text, bops)})


def with_improved(
    summary: RunSummary, kl_ratio: float = 0.3, kind: Literal["finished", "reconstructed"] = "reconstructed"
) -> RunSummary:
    """The same run with its best and its cheapest recipe finished or reconstructed, beside what is so already."""
    iterations = 1000 if kind == "reconstructed" else None
    chosen = {point.id: point for point in (summary.front[0], summary.best) if point is not None}
    found = [
        Improved(
            kind=kind,
            point=point,
            kl_nats=kl_ratio * point.kl_nats,
            agreement_percent=min(100.0, (point.agreement_percent or 0) + 2),
            sqnr_db=point.sqnr_db + 3,
            metric=None if point.metric is None else min(97.9, point.metric + 1.5),
            iterations=iterations,
            images=1024,
            recipe_path=f"{kind}/{point.id}-1024img/recipe.json",
        )
        for point in chosen.values()
    ]
    return replace(summary, improved=(*summary.improved, *found))


def as_dense(summary: RunSummary) -> RunSummary:
    """The same run of a dense model: errors in place of accuracies, and no agreement."""

    def error(metric: float | None) -> float | None:
        return None if metric is None else 0.02 + (97.9 - min(metric, 97.9)) / 1000

    points = {p.id: replace(p, metric=error(p.metric), agreement_percent=None) for p in summary.points}
    found = (
        replace(each, point=points[each.point.id], metric=error(each.metric), agreement_percent=None)
        for each in summary.improved
    )
    return replace(
        summary,
        meaning=Meaning.of(DenseTask()),
        points=tuple(points.values()),
        improved=tuple(found),
        full_precision_metric=error(summary.full_precision_metric),
    )


def with_published(summary: RunSummary) -> RunSummary:
    """The same run beside two published methods at the bits of uniform 4/4: one better than that, one dearer."""
    uniform = next(point for point in summary.points if point.id == "w4a4")
    methods = [
        replace(
            uniform,
            id=f"{name}-w4a4",
            origin="published",
            label=f"{name} 4/4",
            bops=int(uniform.bops * cost),
            kl_nats=uniform.kl_nats * loss,
            feasible=cost <= 1,
            on_front=False,
            recipe_path=f"baselines/{name}-w4a4/recipe.json",
        )
        for name, cost, loss in (("repq-vit", 1.0, 0.7), ("igq-vit", 1.2, 0.6))
    ]
    return replace(summary, published=tuple(methods), baseline_bits=(4, 4))
