"""The registry of proxies: what they read, and what they refuse."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator

import pytest

from autoq.cli.options import named
from autoq.errors import SpaceError
from autoq.scoring.discrepancy import Score
from autoq.sensitivity.proxies import PROXIES, Proxy, check_proxy_name, joint_proxies
from autoq.tasks import TASKS

SCORE = Score(0.25, 75.0, 20.0, 0.5, 4)


@pytest.fixture
def registered() -> Iterator[str]:
    PROXIES.register("noise", Proxy("noise over signal", lambda score: -score.sqnr_db))
    yield "noise"
    PROXIES.unregister("noise")


def test_joint_proxies_are_read_off_a_score() -> None:
    assert {name: loss(SCORE) for name, loss in joint_proxies().items()} == {"kl": 0.25, "mse": 0.5, "agreement": 25.0}


def test_a_score_without_agreement_is_no_number() -> None:
    assert math.isnan(joint_proxies()["agreement"](Score(0.25, None, 20.0, 0.5, 4)))


def test_a_new_proxy_is_one_line(registered: str) -> None:
    assert check_proxy_name(registered) == registered
    assert joint_proxies()[registered](SCORE) == -20.0
    assert named(PROXIES).endswith("noise (noise over signal)")


def test_unknown_names_are_told_the_nearest() -> None:
    with pytest.raises(SpaceError, match=r"unknown proxy 'fischer'; there are kl, .*Did you mean 'fisher'\?"):
        check_proxy_name("fischer")


def test_agreement_is_for_tasks_that_have_it() -> None:
    for name, task in TASKS.items():
        for proxy in PROXIES:
            if proxy == "agreement" and not task.has_agreement:
                with pytest.raises(SpaceError, match=rf"the task '{name}' has none of: use kl, fisher, aph, mse"):
                    check_proxy_name(proxy, task)
            else:
                assert check_proxy_name(proxy, task) == proxy


def test_the_registry_is_light() -> None:
    code = "import sys, autoq.sensitivity.proxies; print({'torch', 'optuna', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
