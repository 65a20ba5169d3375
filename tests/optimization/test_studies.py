"""Every study in the repository can be run."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.optimization.space import load_space
from autoq.runs.search.settings import load_study_file, make_settings

STUDIES = sorted((Path(__file__).parent.parent.parent / "studies").glob("*.toml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_loads(path: Path) -> None:
    settings = make_settings(load_study_file(path))
    assert settings.budgets
    assert load_space(settings.space).rules


def test_there_are_studies() -> None:
    assert STUDIES
