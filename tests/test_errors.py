"""The tree of errors: what the command line turns into exit status 2, and what into 1."""

from __future__ import annotations

import pytest

import autoq.errors
from autoq.errors import AutoqError, InputError, NonFiniteError, RunError, TraceError

ERRORS = [error for error in vars(autoq.errors).values() if isinstance(error, type) and issubclass(error, AutoqError)]


def test_every_error_is_the_users_or_the_runs() -> None:
    leaves = set(ERRORS) - {AutoqError, InputError, RunError}
    assert len(leaves) >= 9
    for error in leaves:
        assert issubclass(error, InputError) != issubclass(error, RunError), error


@pytest.mark.parametrize("error", ERRORS)
def test_the_tree_in_the_docstring_has_it(error: type[AutoqError]) -> None:
    lines = [line for line in (autoq.errors.__doc__ or "").splitlines() if f" {error.__name__} " in f" {line} "]
    assert len(lines) == 1
    depth = len(error.__mro__) - len(AutoqError.__mro__)
    assert lines[0].index(error.__name__) == 4 + 4 * depth, "drawn under its base"


def test_a_model_that_does_not_trace_is_a_wrong_model() -> None:
    assert issubclass(TraceError, autoq.errors.ModelError)


def test_non_finite_names_its_site() -> None:
    error = NonFiniteError("NaN arises first at site 'head'", "head")
    assert (str(error), error.site) == ("NaN arises first at site 'head'", "head")
    assert NonFiniteError("NaN").site is None
