"""Processor time that a trial costs the driver of a study, by model and space; evaluations are made up, and left out.

python -m benchmarks.driver_time [--model NAME] [--space NAME] [--results FILE]

Each line has a hash of the recipes that were proposed: two versions that propose the same have the same.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from autoq.optimization.executors.local import LocalExecutor
from autoq.optimization.objective import Evaluation, KeepGoing
from autoq.recipe import SiteConfig
from benchmarks.scaling.made_up_losses import MadeUpLosses
from benchmarks.scaling.problem import MODEL, SPACE, Problem, write_line

BEFORE, MEASURED = 200, 100
"""Trials before those that are measured, and these."""


class TimedLosses:
    """Losses that add up the processor time that they take.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        """Have taken none."""
        self._losses, self.seconds = MadeUpLosses(0), 0.0

    def __call__(self, sites: Mapping[str, SiteConfig], keep_going: KeepGoing | None = None) -> Evaluation:
        """Return the loss of a recipe."""
        started = time.process_time()
        evaluation = self._losses(sites, keep_going)
        self.seconds += time.process_time() - started
        return evaluation


def measure(out: Path, model: str, space: str) -> None:
    """Write the processor time of the driver for each trial."""
    problem, losses, hashes = Problem.of(MadeUpLosses(0), model, space), TimedLosses(), hashlib.sha256()
    driver = problem.driver(0)
    milliseconds = 0.0
    for trials in (BEFORE, BEFORE + MEASURED):
        started, evaluating = time.process_time(), losses.seconds
        with LocalExecutor(losses) as executor:
            driver.run(executor, trials, on_trial=lambda t: hashes.update(t.user_attrs["recipe_hash"].encode()))
        milliseconds = 1000 * (time.process_time() - started - (losses.seconds - evaluating)) / MEASURED
    line = {
        "driver_of": model,
        "space": space,
        "decisions": len(problem.prior.problem.space.decisions),
        "driver_ms_a_trial": milliseconds,
        "recipes": hashes.hexdigest()[:16],
    }
    write_line(out, line)


def main() -> None:
    """Measure one model and space."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--space", default=SPACE)
    parser.add_argument("--results", type=Path, default=Path("docs/scaling.jsonl"), metavar="FILE")
    arguments = parser.parse_args()
    measure(arguments.results, arguments.model, arguments.space)


if __name__ == "__main__":
    main()
