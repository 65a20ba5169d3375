import pytest

from autoq.report import RunSummary
from tests.report.synthetic import make_summary


@pytest.fixture(scope="session")
def summary() -> RunSummary:
    return make_summary()
