"""The registry of samplers: one more is one file and one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.samplers import BaseSampler

from autoq.cli.options import named
from autoq.optimization.allocation.knapsack import IntArray
from autoq.optimization.samplers import SAMPLERS, AllocationPrior, SamplerEntry
from autoq.optimization.samplers._base import BasePriorSampler
from autoq.optimization.storage import load_trials
from autoq.optimization.trials import UNIFORM
from autoq.runs.search.directory import STUDY_NAME
from autoq.runs.search.run import run_search
from tests.runs.small_run import small_settings, trace_once

from .small_priors import prior_of


class DearestFirst(BasePriorSampler):
    """The dearest recipe within the budget whatever it loses, then the cheaper ones."""

    def at(self, position: int) -> IntArray:
        costs = [-site.cost.astype(float) for site in self.problem.sites]
        return self.problem.relaxed(costs, [self._prior.budget(position)])[0]


@pytest.fixture
def registered() -> Iterator[str]:
    SAMPLERS.register("dearest", SamplerEntry("dearest recipes first", DearestFirst, is_finite=True))
    yield "dearest"
    SAMPLERS.unregister("dearest")


def test_a_new_sampler_is_found_and_searches(registered: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace_once(monkeypatch)
    assert "dearest (dearest recipes first)" in named(SAMPLERS)
    run_search(small_settings(tmp_path, sampler=registered), tmp_path / "run")
    trials = load_trials(tmp_path / "run" / "study.log", STUDY_NAME)
    proposed = [trial for trial in trials if trial.user_attrs["origin"] != UNIFORM]
    assert len(proposed) > 3
    assert proposed[0].values[0] == max(trial.values[0] for trial in proposed)
    assert not (tmp_path / "run" / "sensitivity.csv").exists(), "it said that it needs none"


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_option_makes_a_sampler(name: str) -> None:
    option = SAMPLERS[name]
    sampler: BaseSampler = option.make(0, prior_of())
    assert isinstance(sampler, BaseSampler)
    assert option.description
    assert not option.description.endswith(".")


def test_the_registry_is_light() -> None:
    """The help of the command line is made of it."""
    code = "import sys, autoq.optimization.samplers; print({'torch', 'optuna', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_public_names_are_imported_when_asked_for() -> None:
    assert AllocationPrior.__module__ == "autoq.optimization.samplers.prior"
    with pytest.raises(ImportError, match="cannot import name 'Prior'"):
        from autoq.optimization.samplers import Prior  # type: ignore[attr-defined]  # noqa: F401
