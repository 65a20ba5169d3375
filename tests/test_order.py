"""Where files of tests are run."""

from pathlib import Path

from tests.conftest import LONGEST, _takes_models_of_the_zoo

FOLDER = Path(__file__).parent


def test_the_longest_files_are_there():
    assert [name for name in LONGEST if not (FOLDER / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)


def test_files_that_share_models_are_known():
    together = {"graph/test_zoo.py", "graph/test_consumers.py", "calibration/transforms/rotation/test_rotate.py"}
    assert all(_takes_models_of_the_zoo(FOLDER / name) for name in together)
    assert not any(
        _takes_models_of_the_zoo(FOLDER / name) for name in ("test_units.py", "graph/test_trace.py", "absent.py")
    )
