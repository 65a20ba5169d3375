"""``python:package.module:function``: models and images that a user's own code makes, named on the command line."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from autoq.errors import InputError
from autoq.validation import did_you_mean

PREFIX = "python:"
"""What such a name begins with."""


def is_python_name(name: str) -> bool:
    """Whether a name stands for something that Python code makes.

    >>> is_python_name("python:my_project.models:make_model"), is_python_name("deit_tiny_patch16_224")
    (True, False)
    """
    return name.startswith(PREFIX)


def call_python_name(name: str, error: type[InputError]) -> Any:
    """Import the module and call the function that a name stands for, without arguments.

    Args:
        name: ``python:package.module:function`` (the working directory is searched, too) or
            ``python:PATH.py:function``.
        error: type of what is raised.

    Returns:
        What the function returns.

    Raises:
        InputError: of type ``error``: there is no such module or function, or it raised an exception itself.

    >>> call_python_name("python:collections:OrderedDict", InputError)
    OrderedDict()
    """
    where, separator, attribute = name.removeprefix(PREFIX).rpartition(":")
    if not (separator and where and attribute):
        raise error(f"{name!r} names no function: write {PREFIX}package.module:function")
    try:
        with _working_directory_first():
            function = _attribute(_import(where), attribute)
            return function()
    except InputError:
        raise
    except Exception as raised:  # whatever the user's code raises
        reason = next((line.strip() for line in str(raised).splitlines() if line.strip()), "")
        reason = f"{type(raised).__name__}: {reason}".rstrip(": ")
        raise error(
            f"{name!r} cannot be used: {reason.rstrip('.')}; correct the name, or the code behind it"
        ) from raised


def _import(where: str) -> ModuleType:
    if not where.endswith(".py"):
        return importlib.import_module(where)
    path = Path(where).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # noqa: S101, PT018 - it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # so that what it defines can be pickled
    spec.loader.exec_module(module)
    return module


def _attribute(module: ModuleType, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise AttributeError(f"{module.__name__} has no {part!r}.{did_you_mean(part, dir(found))}")
        found = getattr(found, part)
    return found


@contextmanager
def _working_directory_first() -> Iterator[None]:
    """Search the working directory for modules, which an installed command does not."""
    here = os.fspath(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
