"""Hypervolume with several recipes in flight."""

from __future__ import annotations

import time
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from autoq.optimization.front import hypervolume
from autoq.optimization.trials import UNIFORM, is_feasible
from benchmarks.scaling.in_flight import InFlightExecutor
from benchmarks.scaling.made_up_losses import MadeUpLosses
from benchmarks.scaling.problem import Problem, write_line

IN_FLIGHT = (1, 2, 8, 32)
EVALUATIONS = (50, 200)
SEEDS = (0, 1, 2)


def measure_flight(out: Path) -> None:
    """Write the hypervolume after several numbers of evaluations, for each number in flight and seed."""
    for seed in SEEDS:
        losses = MadeUpLosses(seed)
        problem = Problem.of(losses)
        for in_flight in IN_FLIGHT:
            trials: list[FrozenTrial] = []
            started = time.process_time()
            with InFlightExecutor(losses, in_flight, seed) as executor:
                problem.driver(seed).run(executor, max(EVALUATIONS), on_trial=trials.append)
            seconds = time.process_time() - started
            worst = max(trial.values[1] for trial in trials if trial.user_attrs["origin"] == UNIFORM)
            volumes = {}
            for count in EVALUATIONS:
                points = [
                    (t.values[0], t.values[1])
                    for t in trials[:count]
                    if t.state == TrialState.COMPLETE and is_feasible(t)
                ]
                volumes[count] = hypervolume(points, (problem.reference, worst)) / problem.reference
            repeated = len(trials) - len({trial.user_attrs["recipe_hash"] for trial in trials})
            line = {
                "decisions": len(problem.prior.problem.space.decisions),
                "in_flight": in_flight,
                "seed": seed,
                "hypervolume": volumes,
                "repeated": repeated,
                "driver_ms_a_trial": 1000 * seconds / len(trials),
            }
            write_line(out, line)
