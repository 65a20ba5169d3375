"""How good every sampler's front is after the same number of joint evaluations; times are of the processor.

    python -m benchmarks.search_quality --model local-dir:vit_c10 --data cifar10/calib --folder runs/quality \
        --results studies/search_quality_vit_c10.jsonl

Recipes are calibrated as a search does it by default, chosen on as many other images, and the best of each budget is
scored on a third set, beside the exact allocation of that budget. Results are kept line by line in ``--results``; what
is there already is not run again. ``--folder`` keeps the bank, the sensitivities and every evaluated recipe, which are
shared by all samplers: an evaluation counts with the time that it took when it was made.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

import autoq
from autoq.cost import CostModel, Limits, uniform_bops
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.executors.local import LocalExecutor
from autoq.optimization.front import best_within, hypervolume
from autoq.optimization.objective import Evaluation, JointObjective, KeepGoing
from autoq.optimization.samplers import SAMPLERS, AllocationPrior
from autoq.optimization.space import ResolvedSpace, load_space, resolve_space
from autoq.optimization.storage import TrialStore
from autoq.optimization.study import StudyDriver, StudySettings
from autoq.optimization.trials import UNIFORM
from autoq.recipe import SiteConfig, hash_sites
from autoq.runs.opening import open_bank
from autoq.runs.search.settings import SearchSettings
from autoq.runs.sensitivity import measure_into, options_of_space
from autoq.runs.session import Session
from autoq.scoring import Evaluator, Score
from benchmarks.result_lines import append_result, open_results

_KEY = ("model", "space", "sensitivity", "images", "choose", "limit_bits", "sampler", "seed", "counts")
BUDGETS = {"1.2 × w2a2": (2, 1.2), "w3a3": (3, 1.0), "w4a4": (4, 1.0), "w5a5": (5, 1.0), "w6a6": (6, 1.0)}


class KeptObjective:
    """Evaluates recipes, each once for all samplers, and remembers how long that took."""

    def __init__(self, measure: JointObjective, path: Path) -> None:
        """Take up what ``path`` has; ``seconds`` are of all evaluations, ``seconds_now`` of new ones."""
        self._measure, self._path = measure, path
        self._known = {line["recipe"]: line for line in open_results(path)}
        self.seconds = 0.0
        self.seconds_now = 0.0

    def __call__(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:
        """See ``autoq.optimization.objective.Objective``; nothing is pruned."""
        del keep_going
        recipe = hash_sites(sites)
        if recipe not in self._known:
            started = time.process_time()
            score = self._measure(sites).score
            assert score is not None
            line = {"recipe": recipe, "seconds": time.process_time() - started, "score": vars(score)}
            self.seconds_now += line["seconds"]
            self._known[recipe] = line
            append_result(self._path, line)
        line = self._known[recipe]
        self.seconds += line["seconds"]
        score = Score(**line["score"])
        return Evaluation(score.kl_nats, score)


def main() -> None:
    """Run what is not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--space", default="vit_w2-8")
    parser.add_argument("--sensitivity", default="fisher")
    parser.add_argument("--images", type=int, default=128, help="that calibrate")
    parser.add_argument("--choose", type=int, help="images that choose, and as many that judge; as many as calibrate")
    parser.add_argument("--limit", type=int, default=6, help="bits of the uniform point whose cost is the budget")
    parser.add_argument("--samplers", default=",".join(SAMPLERS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--counts", default="50,200,800")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    counts = [int(count) for count in arguments.counts.split(",")]
    settings = SearchSettings(
        model=arguments.model,
        data=arguments.data,
        space=arguments.space,
        calib_images=arguments.images,
    )
    arguments.folder.mkdir(parents=True, exist_ok=True)
    session = Session.open(settings.model)
    sites = session.traced.sites
    space = resolve_space(load_space(settings.space), sites)
    count = settings.calib_images
    choose = arguments.choose or count
    everything = session.calibration_images(settings.data, count + 2 * choose, settings.seed)
    images, others = everything.held_out(count)
    choosing, unseen = others.held_out(choose)
    session, bank = open_bank(session, images, settings, arguments.folder / "bank")
    started = time.process_time()
    options = options_of_space(space)
    bank.solve_into(arguments.folder / "bank", options, lambda *_: None)
    calibration_seconds = time.process_time() - started
    evaluator = Evaluator(session.model, bank, choosing.tensor)
    third = KeptObjective(
        JointObjective(Evaluator(session.model, bank, unseen.tensor), "kl"), arguments.folder / f"unseen_{choose}.jsonl"
    )
    started = time.process_time()
    path = arguments.folder / f"{arguments.sensitivity}.csv"
    table = measure_into(
        path,
        options,
        evaluator=lambda: Evaluator(session.model, bank, images.tensor),
        bank=bank,
        images=images.tensor,
        proxy=arguments.sensitivity,
        task=session.task,
    )
    sensitivity_seconds = time.process_time() - started
    _print(f"calibrated in {calibration_seconds:.0f} s, sensitivities in {sensitivity_seconds:.0f} s")
    budgets = {n: round(share * uniform_bops(sites, bits, bits)) for n, (bits, share) in BUDGETS.items()}
    budgets = {name: bops for name, bops in budgets.items() if bops <= uniform_bops(sites, *[arguments.limit] * 2)}
    limit = max(budgets.values())
    costs, limits = CostModel(sites), Limits({"bops": limit})
    prior = AllocationPrior.of(AllocationProblem(costs, space), table, limit)
    evaluations = arguments.folder / f"evaluations_{choose}.jsonl"
    kept = KeptObjective(JointObjective(evaluator, "kl"), evaluations)
    allocations = _allocations(prior, budgets, kept, third)
    _print(f"exact allocation: {json.dumps(allocations)}")
    known = _keys(arguments.results)
    for seed in map(int, arguments.seeds.split(",")):
        for name in arguments.samplers.split(","):
            kind = SAMPLERS[name]
            key = _key(arguments, name, 0 if kind.is_finite else seed, counts)
            if json.dumps(key, sort_keys=True) in known:
                continue
            known.add(json.dumps(key, sort_keys=True))
            measure = KeptObjective(JointObjective(evaluator, "kl"), evaluations)
            store = TrialStore(InMemoryStorage(), "search-quality", ("minimize", "minimize"))
            driver = StudyDriver(prior, costs, limits, store, StudySettings(kind, seed, prunes=False))
            watch = _Watch(measure, space)
            driver.run(LocalExecutor(measure), max(counts), on_trial=watch)
            line = {
                **key,
                "machine": _machine(),
                "sensitivity_seconds": sensitivity_seconds,
                "points": watch.points,
                "budgets": budgets,
                "limit": limit,
                "uniform_8_8": uniform_bops(sites, 8, 8),
                "summary": _summary(watch.points, counts, budgets, uniform_bops(sites, 8, 8)),
                "allocations": allocations,
                "unseen": _on_unseen(watch, counts, budgets, third),
                "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
            append_result(arguments.results, line)
            _print(f"{name} seed {seed}: {json.dumps(line['summary'])}")


class _Watch:
    """Collects, for every trial, its cost, its loss and the time until then, evaluations at their own time."""

    def __init__(self, measure: KeptObjective, space: ResolvedSpace) -> None:
        self._measure, self._space = measure, space
        self._started = time.process_time()
        self.points: list[dict[str, Any]] = []
        self.recipes: list[Mapping[str, SiteConfig]] = []

    def __call__(self, trial: FrozenTrial) -> None:
        proposing = time.process_time() - self._started - self._measure.seconds_now
        self.recipes.append(self._space.sites_for(trial.params))
        self.points.append(
            {
                "bops": trial.user_attrs["cost"]["bops"],
                "kl_nats": trial.values[1] if trial.values else None,
                "uniform": trial.user_attrs["origin"] == UNIFORM,
                "seconds": round(proposing + self._measure.seconds, 3),
                "proposing": round(proposing, 3),
            }
        )


def _summary(
    points: list[dict[str, Any]], counts: list[int], budgets: Mapping[str, int], most: int
) -> dict[str, dict[str, Any]]:
    """Hypervolume and least KL by budget after each count of evaluations."""
    worst = max(point["kl_nats"] for point in points if point["uniform"])
    found = {}
    for count in counts:
        pairs = [(p["bops"], p["kl_nats"]) for p in points[:count] if p["kl_nats"] is not None]
        best = {name: best_within(pairs, budget) for name, budget in budgets.items()}
        found[str(count)] = {
            "evaluations": len(points[:count]),
            "hypervolume": round(hypervolume(pairs, (most, worst)) / most, 4),
            "kl_nats": {name: None if i is None else round(pairs[i][1], 6) for name, i in best.items()},
            "seconds": points[min(count, len(points)) - 1]["seconds"],
            "proposing": points[min(count, len(points)) - 1]["proposing"],
        }
    return found


def _allocations(
    prior: AllocationPrior, budgets: Mapping[str, int], choosing: KeptObjective, unseen: KeptObjective
) -> dict[str, dict[str, float]]:
    """Return the KL of each budget's exact allocation, on the images that choose and on others."""
    found = {}
    for name, budget in budgets.items():
        allocation = prior.problem.allocate(prior.table, budget)
        recipe = prior.problem.space.sites_for(allocation.assignment)
        found[name] = {"kl_nats": choosing(recipe).loss, "unseen": unseen(recipe).loss}
    return found


def _on_unseen(
    watch: _Watch, counts: list[int], budgets: Mapping[str, int], objective: KeptObjective
) -> dict[str, dict[str, float]]:
    """Return the KL, on images that neither calibrated nor chose, of the best of each budget after each count."""
    found: dict[str, dict[str, float]] = {}
    for count in counts:
        pairs = [(p["bops"], p["kl_nats"]) for p in watch.points[:count] if p["kl_nats"] is not None]
        best = {name: best_within(pairs, budget) for name, budget in budgets.items()}
        found[str(count)] = {
            name: round(objective(watch.recipes[index]).loss, 6) for name, index in best.items() if index is not None
        }
    return found


def _key(arguments: argparse.Namespace, sampler: str, seed: int, counts: list[int]) -> dict[str, Any]:
    return {
        "model": arguments.model.rpartition("/")[2],
        "space": arguments.space,
        "sensitivity": arguments.sensitivity,
        "images": arguments.images,
        "choose": arguments.choose or arguments.images,
        "limit_bits": arguments.limit,
        "sampler": sampler,
        "seed": seed,
        "counts": counts,
    }


def _keys(path: Path) -> set[str]:
    return {json.dumps({name: line[name] for name in _KEY}, sort_keys=True) for line in open_results(path)}


def _machine() -> str:
    threads = torch.get_num_threads()
    return (
        f"{platform.processor() or platform.machine()}, {threads} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}, optuna {optuna.__version__}, autoq {autoq.__version__}"
    )


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
