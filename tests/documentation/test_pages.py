"""Every command and every Python example in the documents is run, page by page, and prints what the page says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.documentation.blocks import DATA, RUN, SHOWN, blocks_of
from tests.documentation.pages import ALL, ROOT, START, TO_RUN
from tests.documentation.reader import Reader

NOT_RUN = {"installs packages": 5, "needs the network": 2, "takes many minutes": 3, "needs a database server": 1}
"""Blocks that no test runs, by reason."""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix(""))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of someone who has followed the first page."""
    folder = tmp_path_factory.mktemp("started")
    reader = Reader(START, folder)
    reader.read()
    assert reader.ran
    return folder


@pytest.mark.slow
def test_the_first_page_runs(started: Path) -> None:
    assert (started / "recipe.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", TO_RUN, ids=named)
def test_a_page_runs(path: Path, started: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(started, folder)
    reader = Reader(path, folder)
    reader.read()
    assert reader.ran


@pytest.mark.parametrize("path", ALL, ids=named)
def test_every_block_says_what_it_is(path: Path) -> None:
    text = path.read_text("utf-8")
    blocks = blocks_of(text)
    assert len(blocks) == len(re.findall(r"^```\w*.*$", text, re.M)) / 2, "a fence that is not read"
    assert {block.language for block in blocks} <= {*RUN, *DATA, *SHOWN}


@pytest.mark.parametrize("path", ALL, ids=named)
def test_nothing_to_type_is_outside_of_a_block(path: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.M | re.S)
    assert re.findall(r"^ {4,}(?:\$|autoq|pip|python|scripts/).*", prose, re.M) == []


def test_what_is_not_run_is_counted() -> None:
    reasons = [block.reason for path in ALL for block in blocks_of(path.read_text("utf-8")) if block.reason]
    assert {reason: reasons.count(reason) for reason in reasons} == NOT_RUN
