"""Settings that all tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # tests run side by side, one a core
settings.register_profile("any machine", deadline=None)  # under load everything takes longer
settings.load_profile("any machine")

LONGEST = (
    "documentation/test_pages.py",
    "test_doctests.py",
    "exporters/test_onnx_qcdq.py",
    "graph/test_zoo.py",
    "optimization/test_faults.py",
    "runs/search/test_run.py",
    "tasks/test_transformers_models.py",
    "test_notebooks.py",
    "cli/test_reconstruct.py",
    "cli/test_search_improve.py",
    "cli/test_detection.py",
    "cli/test_search_interrupted.py",
    "api/test_searching.py",
    "report/page/test_browser.py",
    "runs/test_evaluate.py",
    "runs/test_quantize.py",
    "optimization/test_study.py",
    "test_packaging.py",
)
"""Files of a minute and more, the longest first: a file stays in one process, which others should not wait for."""

ZOO = "tests.graph.zoo"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; ``scripts/test`` starts files in this order."""
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give files that take models of the zoo to one process, which traces each of them once."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return ZOO if _takes_models_of_the_zoo(config.rootpath / file) else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@cache
def _takes_models_of_the_zoo(path: Path) -> bool:
    return path.is_file() and ZOO in path.read_text(encoding="utf-8")


@pytest.fixture(autouse=True, scope="session")
def _traced_once() -> Iterator[None]:
    """Take over traces of models that another test has opened: many make the same ones."""
    with pytest.MonkeyPatch.context() as patch:
        session = sys.modules.get("autoq.runs.session")  # loaded already, if a test file that is run needs it
        if session is not None:
            from tests.known_traces import trace_known

            patch.setattr(session, "trace", trace_known)
        yield
