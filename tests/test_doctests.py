"""The examples in docstrings run as they are written."""

from __future__ import annotations

import doctest
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

import autoq
from autoq.api.searching import search

PACKAGE = Path(autoq.__file__).parent


def modules_with_examples() -> Iterator[ParameterSet]:
    """Every module that has an example; those of the public API, which search or calibrate, are slow."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if ">>> " in text:
            name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
            yield pytest.param(name, marks=[pytest.mark.slow] if ">>> import autoq" in text else [])


_search = cache(search)
"""Several examples begin with the same search, and only read what it has left."""


@pytest.mark.parametrize("name", list(modules_with_examples()))
def test_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(autoq, "search", _search)
    found = doctest.testmod(import_module(name), optionflags=doctest.FAIL_FAST)
    assert found.failed == 0
    assert found.attempted > 0, "an example outside a docstring is not run"
    assert not list(tmp_path.iterdir()), "examples clean up"
