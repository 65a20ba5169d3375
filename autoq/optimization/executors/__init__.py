"""Executors by name: where the recipes of a study are evaluated.

To add one, write a ``BaseExecutor`` in a file of its own and add a line to ``EXECUTORS``: ``--executor`` and its help
find it there. Its test inherits the contract that all executors keep (``tests/contracts/executors.py``). Executors are
imported when they are made, not before: the help needs no Optuna.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoq.errors import SpaceError
from autoq.registry import Registry

if TYPE_CHECKING:
    from autoq.optimization.executors._base import BaseExecutor, ExecutorContext


@dataclass(frozen=True)
class ExecutorEntry:
    """An executor, and what it needs.

    Attributes:
        description: where it evaluates, in a few words, for ``--help``.
        make: from the context of a study to the executor.
        rebuilds: whether workers rebuild the model from its name, so that it has to have one.
        most_workers: how many workers it can have, or None.
        divides_cores: whether workers share the cores of this machine.
    """

    description: str
    make: Callable[[ExecutorContext], BaseExecutor]
    rebuilds: bool = True
    most_workers: int | None = None
    divides_cores: bool = False


def _imported(module: str, name: str) -> Callable[[ExecutorContext], BaseExecutor]:
    """Make an executor by ``name`` in a ``module`` of this package, imported when it is called."""

    def make(context: ExecutorContext) -> BaseExecutor:
        executor: BaseExecutor = getattr(importlib.import_module(f"{__name__}.{module}"), name).of(context)
        return executor

    return make


EXECUTORS: Registry[ExecutorEntry] = Registry(
    "executor",
    SpaceError,
    {
        "local": ExecutorEntry("in this process", _imported("local", "LocalExecutor"), rebuilds=False, most_workers=1),
        "processes": ExecutorEntry(
            "in worker processes on this machine", _imported("processes", "ProcessExecutor"), divides_cores=True
        ),
        "directory": ExecutorEntry(
            "by workers that share the run directory, each started by autoq worker",
            _imported("directory", "DirectoryExecutor"),
        ),
    },
)
"""Executors by the name that ``--executor`` takes."""
