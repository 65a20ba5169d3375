"""The decisions of a model with made-up losses, and where figures are written."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from optuna.storages import InMemoryStorage

from autoq.cost import CostModel, Limits, uniform_bops
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.samplers import SAMPLERS, AllocationPrior
from autoq.optimization.space import load_space, resolve_space
from autoq.optimization.storage import TrialStore
from autoq.optimization.study import StudyDriver, StudySettings
from autoq.runs.session import Session
from benchmarks.result_lines import append_result
from benchmarks.scaling.made_up_losses import MadeUpLosses

MODEL = "vit_digits"
SPACE = "bits_only"


@dataclass(frozen=True)
class Problem:
    """The decisions of a model, with exact costs and a prior."""

    costs: CostModel
    limits: Limits
    prior: AllocationPrior
    reference: float

    @classmethod
    def of(cls, losses: MadeUpLosses, model: str = MODEL, space_name: str = SPACE) -> Self:
        """Trace the model."""
        session = Session.open(model, device="cpu")
        sites = session.traced.sites
        space = resolve_space(load_space(space_name), sites)
        problem = AllocationProblem(session.costs, space)
        limit = uniform_bops(sites, 4, 4)
        table = problem.table(lambda site, operand, config: losses.option(site, operand, config.bits))
        prior = AllocationPrior(problem, table, limit)
        return cls(session.costs, Limits({"bops": limit}), prior, uniform_bops(sites, 8, 8))

    def driver(self, seed: int, sampler: str = "progressive") -> StudyDriver:
        """Begin a study in memory."""
        store = TrialStore(InMemoryStorage(), "scaling", ("minimize", "minimize"))
        return StudyDriver(self.prior, self.costs, self.limits, store, StudySettings(SAMPLERS[sampler], seed))


def write_line(out: Path, line: dict[str, Any]) -> None:
    """Append a figure to a file and print it, with what tells how busy the machine was."""
    line |= {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), "machine": platform.machine()}
    print(json.dumps(line), flush=True)
    append_result(out, line)
