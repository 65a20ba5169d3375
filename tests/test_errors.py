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
    depth = sum(issubclass(base, AutoqError) for base in error.__mro__) - 1
    assert lines[0].index(error.__name__) == 4 + 4 * depth, "drawn under its base"


@pytest.mark.parametrize("error", ERRORS)
def test_the_docstring_names_the_built_in_that_it_derives_from(error: type[AutoqError]) -> None:
    line = next(line for line in (autoq.errors.__doc__ or "").splitlines() if f" {error.__name__} " in f" {line} ")
    named = [name for name in ("ValueError", "TypeError", "FileNotFoundError", "RuntimeError") if f"({name})" in line]
    derived = [base.__name__ for base in error.__bases__ if not issubclass(base, AutoqError) and base is not Exception]
    assert named == derived


def test_a_missing_file_is_told_by_its_message_alone() -> None:
    assert str(autoq.errors.DataNotFoundError("no image folder at 'x'")) == "no image folder at 'x'"
    assert issubclass(autoq.errors.DataNotFoundError, FileNotFoundError | ValueError)


def test_a_model_that_does_not_trace_is_a_wrong_model() -> None:
    assert issubclass(TraceError, autoq.errors.ModelError)


def test_non_finite_names_its_site() -> None:
    error = NonFiniteError("NaN arises first at site 'head'", "head")
    assert (str(error), error.site) == ("NaN arises first at site 'head'", "head")
    assert NonFiniteError("NaN").site is None
