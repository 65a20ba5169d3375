"""What ``import autoq`` offers: names that are there at once and load nothing until they are used."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
from importlib import import_module

import pytest

import autoq

OBJECTS = sorted(set(autoq.__all__) - {"__version__", "errors"})
HEAVY = ("torch", "timm", "matplotlib", "optuna", "pandas")


def in_a_fresh_interpreter(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_loads_nothing_heavy() -> None:
    code = f"import sys, autoq; autoq.__version__, dir(autoq), autoq.errors; print(*sys.modules.keys() & {set(HEAVY)})"
    assert in_a_fresh_interpreter(code) == "\n"


def test_names_are_listed_before_they_are_loaded() -> None:
    assert sorted(autoq.__all__) == dir(autoq) == in_a_fresh_interpreter("import autoq; print(*dir(autoq))").split()
    assert len(set(autoq.__all__)) == len(autoq.__all__)


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_are_what_their_names_say(name: str) -> None:
    found = getattr(autoq, name)
    assert found.__name__ == name
    assert inspect.isclass(found) == name[0].isupper()
    assert inspect.isfunction(found) == name[0].islower()


def test_errors_are_a_module() -> None:
    assert autoq.errors is import_module("autoq.errors")
    assert issubclass(autoq.errors.RecipeError, autoq.errors.AutoqError)


@pytest.mark.slow
def test_submodules_hide_no_public_name() -> None:
    """Importing a submodule binds its name in the package: ``autoq.search`` must stay the function."""
    code = """
import pkgutil, types
import autoq
for module in pkgutil.walk_packages(autoq.__path__, "autoq."):
    if module.name != "autoq.__main__":
        __import__(module.name)
wrong = [name for name in autoq.__all__ if isinstance(getattr(autoq, name), types.ModuleType) and name != "errors"]
print(*wrong)
"""
    assert in_a_fresh_interpreter(code) == "\n"


@pytest.mark.parametrize("name", ["serach", "__wrapped__", "numpy"])
def test_unknown_names_are_attribute_errors(name: str) -> None:
    with pytest.raises(AttributeError, match=f"module 'autoq' has no attribute '{name}'"):
        getattr(autoq, name)


@pytest.mark.parametrize("name", OBJECTS)
def test_public_objects_have_an_example(name: str) -> None:
    docstring = inspect.getdoc(getattr(autoq, name))
    assert docstring is not None
    assert doctest.DocTestParser().get_examples(docstring)


def test_every_argument_is_documented() -> None:
    functions = [getattr(autoq, name) for name in OBJECTS if inspect.isfunction(getattr(autoq, name))]
    missing = [
        f"{function.__name__}({parameter})"
        for function in functions
        for parameter in inspect.signature(function).parameters
        if f"\n    {parameter}: " not in (inspect.getdoc(function) or "")
    ]
    assert not missing
