"""Executors by name: where the recipes of a study are evaluated.

To add one, write a ``BaseExecutor`` in a file of its own and add a line to ``EXECUTORS``: ``--executor`` and its help
find it there. Its test inherits the contract that all executors keep (``tests/contracts/executors.py``). Executors are
imported when they are made, not before: the help needs no Optuna.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoq.errors import SpaceError
from autoq.registry import Registry, imported

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
        connect: from an address and the number of workers: makes sure, before anything is calibrated, that the cluster
            is there; None: there is none.
        prepare: from names of modules that workers import: begins with it, while the driver loads the model; None:
            workers are started elsewhere.
    """

    description: str
    make: Callable[[ExecutorContext], BaseExecutor]
    rebuilds: bool = True
    most_workers: int | None = None
    divides_cores: bool = False
    connect: Callable[[str | None, int], object] | None = None
    prepare: Callable[[Sequence[str]], object] | None = None


EXECUTORS: Registry[ExecutorEntry] = Registry(
    "executor",
    SpaceError,
    {
        "local": ExecutorEntry(
            "in this process", imported(f"{__name__}.local", "LocalExecutor.of"), rebuilds=False, most_workers=1
        ),
        "processes": ExecutorEntry(
            "in worker processes on this machine",
            imported(f"{__name__}.processes", "ProcessExecutor.of"),
            divides_cores=True,
            prepare=imported(f"{__name__}.processes", "import_ahead"),
        ),
        "directory": ExecutorEntry(
            "by workers that share the run directory, each started by autoq worker",
            imported(f"{__name__}.directory", "DirectoryExecutor.of"),
        ),
        "ray": ExecutorEntry(
            "in actors of a Ray cluster, of this machine or at --address",
            imported(f"{__name__}.ray", "RayExecutor.of"),
            connect=imported(f"{__name__}.ray", "connect"),
        ),
    },
)
"""Executors by the name that ``--executor`` takes."""
