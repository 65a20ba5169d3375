"""ProgressiveSampler without a prior, in a plain Optuna study."""

from __future__ import annotations

import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import Trial, TrialState

from autoq.optimization.front import hypervolume
from autoq.optimization.samplers import ProgressiveSampler

LAYERS = 12
BITS = (2, 3, 4, 5, 6, 8)
BUDGET = 4.5 * LAYERS


def objective(trial: Trial) -> tuple[float, float]:
    """Layers differ a thousandfold in how much their rounding costs; a scheme halves the first one's."""
    bits = [trial.suggest_categorical(f"layer.{i}.bits", BITS) for i in range(LAYERS)]
    scheme = trial.suggest_categorical("scheme", ("plain", "log", "other"))
    loss = sum(10 ** (-3 * i / LAYERS) * 4.0**-b for i, b in enumerate(bits)) * (0.5 if scheme == "log" else 1.0)
    cost = float(sum(bits))
    trial.set_constraint("budget", cost - BUDGET)
    return cost, loss


def search(sampler: BaseSampler, trials: int, start: bool = True) -> optuna.Study:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    if start:
        study.enqueue_trial({f"layer.{i}.bits": 4 for i in range(LAYERS)} | {"scheme": "plain"})
    study.optimize(objective, n_trials=trials)
    return study


def best_loss(study: optuna.Study) -> float:
    return min(trial.values[1] for trial in study.trials if trial.constraints["budget"] <= 0)


def volume(study: optuna.Study) -> float:
    feasible = [trial for trial in study.trials if trial.constraints["budget"] <= 0]
    return hypervolume([(trial.values[0], trial.values[1]) for trial in feasible], (8.0 * LAYERS, 1.0))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_finds_more_than_guessing(seed: int) -> None:
    found = search(ProgressiveSampler(seed), 120)
    guessed = search(RandomSampler(seed), 120)
    assert volume(found) > volume(guessed)
    uniform = sum(10 ** (-3 * i / LAYERS) * 4.0**-4 for i in range(LAYERS))
    assert best_loss(found) < uniform / 3


def test_learns_which_unordered_choice_is_best() -> None:
    study = search(ProgressiveSampler(0), 100)
    best = min((t for t in study.trials if t.constraints["budget"] <= 0), key=lambda t: t.values[1])
    assert best.params["scheme"] == "log"


def test_the_seed_decides() -> None:
    first, again, other = (search(ProgressiveSampler(seed), 25) for seed in (0, 0, 1))
    proposals = [[trial.params for trial in study.trials] for study in (first, again, other)]
    assert proposals[0] == proposals[1]
    assert proposals[0] != proposals[2]


def test_all_is_read_from_the_study() -> None:
    """A fresh sampler on the same study proposes what the old one would have: workers can come and go."""
    study = search(ProgressiveSampler(0), 20)
    twin = optuna.create_study(directions=["minimize", "minimize"], sampler=ProgressiveSampler(0))
    twin.add_trials(study.trials)
    for each in (study, twin):
        each.optimize(objective, n_trials=5)
    assert [t.params for t in study.trials] == [t.params for t in twin.trials]


def test_nothing_is_feasible() -> None:
    def infeasible(trial: Trial) -> tuple[float, float]:
        values = objective(trial)
        trial.set_constraint("never", 1.0)
        return values

    study = optuna.create_study(directions=["minimize", "minimize"], sampler=ProgressiveSampler(0))
    study.optimize(infeasible, n_trials=15)
    assert all(trial.state == TrialState.COMPLETE for trial in study.trials)


def test_without_constraints_and_with_failures() -> None:
    def moody(trial: Trial) -> tuple[float, float]:
        bits = trial.suggest_categorical("bits", BITS)
        if trial.number % 3 == 1:
            raise ValueError("a failure")
        return float(bits), 4.0**-bits

    study = optuna.create_study(directions=["minimize", "minimize"], sampler=ProgressiveSampler(0))
    study.optimize(moody, n_trials=30, catch=ValueError)
    assert {trial.params["bits"] for trial in study.trials} == set(BITS)


def test_other_parameters_are_drawn_at_random() -> None:
    def mixed(trial: Trial) -> tuple[float, float]:
        bits = trial.suggest_categorical("bits", BITS)
        rate = trial.suggest_float("rate", 0.0, 1.0)
        return float(bits), 4.0**-bits + rate

    study = optuna.create_study(directions=["minimize", "minimize"], sampler=ProgressiveSampler(0))
    study.optimize(mixed, n_trials=10)
    assert len({trial.params["rate"] for trial in study.trials}) == 10


@pytest.mark.parametrize("directions", [["minimize"], ["minimize", "maximize"], ["minimize"] * 3])
def test_other_objectives_are_refused(directions: list[str]) -> None:
    study = optuna.create_study(directions=directions, sampler=ProgressiveSampler(0))
    with pytest.raises(ValueError, match=r"directions are \['minimize'.*needs two objectives to minimise"):
        study.ask().suggest_categorical("bits", BITS)
