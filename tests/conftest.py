"""Settings that all tests share."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # tests run side by side, one a core
settings.register_profile("any machine", deadline=None)  # under load everything takes longer
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take over traces of models that another test has opened: many make the same ones."""
    session = sys.modules.get("autoq.runs.session")
    if session is not None:
        from tests.known_traces import trace_known

        monkeypatch.setattr(session, "trace", trace_known)
