"""Observers by name."""

from __future__ import annotations

from typing import get_args

from autoq.calibration.observers import OBSERVERS, BaseObserver
from autoq.cli import options


def test_every_observer_is_registered_under_its_name() -> None:
    for name, cls in OBSERVERS.items():
        assert cls.name == name
        assert issubclass(cls, BaseObserver)
        assert cls.__doc__


def test_the_help_of_the_command_line_names_every_observer() -> None:
    text = get_args(options.Observer)[1].help
    assert all(name in text for name in OBSERVERS)
