"""A worker of a search that shares its directory with the driver."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from autoq.errors import RunDirectoryError
from autoq.optimization.executors._base import WorkerSpecification
from autoq.optimization.executors.directory import FOLDER
from autoq.optimization.executors.folder_worker import work_in
from autoq.runs.search.worker import SearchWorkerSpecification
from autoq.units import format_seconds


def serve_search(directory: str | os.PathLike[str], wait_seconds: float, slot: int = 0) -> int:
    """Evaluate recipes for the search in a directory until its driver ends, and for drivers that follow it soon.

    Args:
        directory: of the search, as it is called on this machine.
        wait_seconds: how long to wait for a driver, at first and after one has ended.
        slot: number of this worker on its machine; of several GPUs each takes the next.

    Returns:
        How many jobs were done.

    Raises:
        RunDirectoryError: no driver came.
        WorkerRefusedError: this worker does not have what the driver has.
        AutoqError: the model, the images or the bank cannot be loaded.
    """
    where = Path(directory).absolute()

    def here(given: WorkerSpecification) -> WorkerSpecification:
        return replace(given, folder=os.fspath(where)) if isinstance(given, SearchWorkerSpecification) else given

    done = work_in(where / FOLDER, wait_seconds, here, slot)
    if done is None:
        raise RunDirectoryError(
            f"no search came to {os.fspath(directory)!r} within {format_seconds(wait_seconds)}: start it by "
            "autoq search --executor directory --out with this directory"
        )
    return done
