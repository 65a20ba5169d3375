"""How commands present themselves."""

from __future__ import annotations

import inspect
import logging
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from autoq.cli.help import CONTEXT, GroupedCommand, examples, with_verbosity


def train(
    model: Annotated[str, typer.Option(help="Which.")] = "m", trials: Annotated[int, typer.Option(help="How many.")] = 3
) -> None:
    """Train."""
    typer.echo(f"{model} {trials} {logging.getLogger('autoq').level}")


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(rich_markup_mode=None, add_completion=False)
    made.command(cls=GroupedCommand, context_settings=CONTEXT, epilog=examples("train --trials 5"))(
        with_verbosity(train)
    )
    return made


def test_options_stand_in_groups_with_examples_below(app: typer.Typer) -> None:
    page = CliRunner().invoke(app, ["-h"]).output
    places = [
        page.index(each) for each in ("Model and images:", "--model", "Search:", "--trials", "Other options:", "-v")
    ]
    assert places == sorted(places)
    assert page.rstrip().endswith("Examples:\n    train --trials 5")


def test_a_command_need_not_know_that_it_is_verbose(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("autoq"), "level", logging.WARNING)
    assert CliRunner().invoke(app, ["--trials", "5"]).output == f"m 5 {logging.WARNING}\n"
    assert CliRunner().invoke(app, ["-v", "--model", "x"]).output == f"x 3 {logging.INFO}\n"
    assert list(inspect.signature(with_verbosity(train)).parameters) == ["model", "trials", "verbose"]
