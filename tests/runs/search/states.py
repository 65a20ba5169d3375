"""The state of a search's driver or worker, as tests of it and of chunks need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoq.calibration import Bank
from autoq.runs.images import CalibrationImages
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.state import SearchState
from autoq.runs.session import Session


def make_state(session: Session, images: CalibrationImages, bank: Bank, folder: Path, **changes: Any) -> SearchState:
    """The state of a worker, whose images calibrate and score; labelled ones lie in ``photos``, if there are any."""
    labelled = session.labelled_images(str(folder / "photos")) if (folder / "photos").exists() else None
    values: dict[str, Any] = {
        "session": session,
        "loaded": session,
        "bank": bank,
        "images": images,
        "scoring": images,
        "open_labelled": lambda: labelled,
        "load_images": lambda wanted, spare: session.calibration_images("digits", wanted, 0, spare),
        "directory": SearchDirectory(folder),
    }
    return SearchState(**(values | changes))
