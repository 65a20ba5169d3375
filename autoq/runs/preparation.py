"""What a search and a measurement of sensitivities have in common: a model, perhaps rescaled, and its bank."""

from __future__ import annotations

import os

from autoq.calibration import Bank, CalibrationSettings
from autoq.calibration.fpcs.search import FpcsSettings
from autoq.calibration.transforms.reparameterization import rewritable_norms
from autoq.events import PhaseAdvanced, PhaseStarted, Progress, ignore
from autoq.runs.images import CalibrationImages
from autoq.runs.search.settings import CalibrationChoices
from autoq.runs.session import Session

_RESCALED_FOR_BITS = 8
"""Zero points at which reparameterized LayerNorms are brought together: the finest of the usual widths suits all."""


def open_bank(
    session: Session,
    images: CalibrationImages,
    settings: CalibrationChoices,
    directory: str | os.PathLike[str],
    progress: Progress = ignore,
) -> tuple[Session, Bank]:
    """The session, its LayerNorms rescaled if that is asked for, and its bank with what ``directory`` has of it.

    Args:
        session: a model.
        images: to calibrate on.
        settings: how.
        directory: of the bank; it need not exist.
        progress: told when activations are observed.

    Raises:
        RunDirectoryError: the bank there was solved for something else.
    """
    captured = 0

    def on_capture(count: int) -> None:
        nonlocal captured
        if not captured:
            progress(PhaseStarted("capture", len(images.tensor)))
        captured += count
        progress(PhaseAdvanced("capture", captured))

    if settings.reparameterize:
        norms = dict.fromkeys(rewritable_norms(session.traced), _RESCALED_FOR_BITS)
        session = session.rescaled(norms, lambda: images, directory)
    # An option serves many recipes: it is solved with the rest of its site in full precision.
    fpcs = FpcsSettings(rounds=0) if settings.observer == "fpcs" else FpcsSettings()
    calibration = CalibrationSettings(observer=settings.observer, seed=settings.seed, fpcs=fpcs)
    bank = session.bank(lambda: images, images.sha256, calibration, on_capture)
    bank.load(directory)
    return session, bank
