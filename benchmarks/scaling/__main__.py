"""Measures what several workers give.

python -m benchmarks.scaling flight [--results FILE]      # hypervolume with 1, 2, 8 and 32 in flight, three seeds
python -m benchmarks.scaling speed [--results FILE]       # trials a second of 1 to 256 simulated workers

Recipes are those of the bundled model; their losses are made up: sums of option losses with errors that the prior does
not know, to a power that joint errors have. Evaluations of simulated workers sleep. Processor time of the driver tells
what a trial costs it, whatever else the machine does. A package, since spawned workers import a module that is run, and
this one needs PyTorch where they do not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from autoq.optimization.executors import EXECUTORS
from benchmarks.scaling.flight import measure_flight
from benchmarks.scaling.speed import IN_PROCESS, measure_speed


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["flight", "speed"])
    parser.add_argument("--results", type=Path, default=Path("docs/scaling.jsonl"), metavar="FILE")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a simulated evaluation takes")
    parser.add_argument("--executors", default=",".join((*EXECUTORS, IN_PROCESS)), metavar="NAMES")
    parser.add_argument("--workers", default="1,2,8,32,128,256", metavar="NUMBERS", help="of workers, of each executor")
    parser.add_argument("--trials", type=int, default=60, help="of each case, and two for each worker")
    arguments = parser.parse_args()
    np.seterr(all="raise", under="ignore")
    if arguments.what == "flight":
        measure_flight(arguments.results)
    else:
        counts = [int(count) for count in arguments.workers.split(",")]
        measure_speed(arguments.results, arguments.executors.split(","), counts, arguments.seconds, arguments.trials)


if __name__ == "__main__":
    main()
