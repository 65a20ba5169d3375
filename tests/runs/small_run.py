"""A search small enough to run often: the bundled model, 16 images, 24 labelled ones; bits, groups and bases."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from autoq.data import open_source
from autoq.events import Event
from autoq.runs.search.run import run_search
from autoq.runs.search.settings import FAST, SearchSettings, make_settings
from autoq.runs.session import Session

SPACE = """
schema_version = 1

[[rules]]
operand = "weight"
scheme = "uniform"
granularity = "channel"
bits = [3, 4, 6]

[[rules]]
operand = ["input", "lhs", "rhs"]
scheme = "uniform"
bits = [3, 4, 6]

[[rules]]
site = "blocks.*.attn.qkv"
operand = "input"
scheme = "instance_groups"
groups = [1, 4]

[[rules]]
producer = ["softmax", "gelu"]
scheme = "adalog"

[[ties]]
match = "*"
fields = ["bits"]
by = "site"
"""
TRIALS = 14
PHOTOS = 24


def small_settings(folder: Path, **changes: Any) -> SearchSettings:
    """Settings whose space and labelled images lie in ``folder``."""
    space = folder / "small.toml"
    space.write_text(SPACE, encoding="utf-8")
    write_photos(folder / "photos")
    values = {"space": str(space), "eval_data": str(folder / "photos"), "trials": TRIALS, "calib_images": 16}
    return make_settings({**FAST, **values, **changes})


def write_photos(folder: Path) -> None:
    """``PHOTOS`` of the bundled validation images, in a folder for each class: all of them would take half the time."""
    source = open_source("digits/val", "evaluation")
    assert source.class_names is not None
    for index in range(PHOTOS):
        label = source.label(index)
        assert label is not None
        path = folder / source.class_names[label] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        source.load(index).save(path)


@cache
def small_session() -> Session:
    """The bundled model, traced once: a search leaves nothing in it but full slots."""
    return Session.open("vit_digits", device="cpu")


@cache
def _finished() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    holder = tempfile.TemporaryDirectory(prefix="autoq-tests-")
    folder = Path(holder.name)
    run_search(small_settings(folder), folder / "run")
    return holder, folder / "run"


def trace_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every search and evaluation the bundled model as it was traced first."""
    session = small_session()
    monkeypatch.setattr(Session, "open", lambda *_, **__: session)


def finished_run() -> Path:
    """The directory of an uninterrupted search; one for all tests, not to be written to."""
    return _finished()[1]


def interrupt_at(wanted: Callable[[Event], bool], times: int = 1) -> Callable[[Event], None]:
    """A progress callback that is Ctrl-C at the event that is ``wanted`` for the ``times``-th time."""
    count = 0

    def progress(event: Event) -> None:
        nonlocal count
        count += wanted(event)
        if count == times:
            raise KeyboardInterrupt

    return progress
