"""What a search says of itself in the study that it writes, beside its directory."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoq.cost import CostModel, Limits
from autoq.optimization.database import StudyDatabase
from autoq.runs.search.settings import SearchSettings
from autoq.version import __version__


def open_database(
    settings: SearchSettings,
    folder: Path,
    run: str,
    costs: CostModel,
    fingerprints: Mapping[str, str],
) -> StudyDatabase | None:
    """Open the study that a search is copied to, or return None where it is not.

    Args:
        settings: of the search.
        folder: its directory.
        run: tells the search from any other.
        costs: of recipes.
        fingerprints: of weights, images and space.

    Raises:
        StorageError: the database cannot be used, or the study is another search's.
    """
    if settings.storage is None:
        return None
    limits = Limits.resolve(settings.budgets, costs)
    owner: dict[str, Any] = {
        "run": run,
        "directory": f"{socket.gethostname()}:{os.fspath(folder.absolute())}",
        "trials": settings.trials,
        "autoq": __version__,
        "model": settings.model,
        **fingerprints,
        "sampler": settings.sampler,
        "proxy": settings.proxy,
        "budgets": dict(limits.most),
        "cost": limits.chosen.name,
        "uniform_8_8_cost": costs.uniform(limits.chosen, 8, 8),
    }
    name = settings.study_name or folder.absolute().name
    return StudyDatabase(settings.storage, name, owner, settings.objectives(limits.chosen))
