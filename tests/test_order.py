"""The files that begin first are there."""

from pathlib import Path

from tests.conftest import LONGEST


def test_the_longest_files_are_there():
    folder = Path(__file__).parent
    assert [name for name in LONGEST if not (folder / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)
