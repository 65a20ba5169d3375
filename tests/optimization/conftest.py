"""What tests of studies share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.optimization.postgres import PostgresServer, binaries


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A running server."""
    if binaries() is None:
        pytest.skip("needs PostgreSQL's initdb and pg_ctl")
    server = PostgresServer()
    yield server
    server.remove()
