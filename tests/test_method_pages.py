"""The pages of methods say what the methods do."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from autoq.methods import METHODS

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "write_method_pages.py"))


def test_every_method_has_a_page() -> None:
    assert {path.stem for path in SCRIPT["PAGES"].glob("*.md")} == set(METHODS)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_tables_are_what_the_script_writes(name: str) -> None:
    page = (SCRIPT["PAGES"] / f"{name}.md").read_text(encoding="utf-8")
    assert page == SCRIPT["make_page"](name, page), "run python -m scripts.write_method_pages"
    assert all(each.subject in page for each in METHODS[name].differences)
