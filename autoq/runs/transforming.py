"""Change a model by what calibration images say, or a bank of earlier ones: rotate, centre keys, rescale LayerNorms."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from autoq.calibration import CalibrationSettings
from autoq.calibration.bank.files import BankContent, read_bank
from autoq.calibration.transforms.centring.choose import choose_centres
from autoq.calibration.transforms.reparameterization import observe_factors
from autoq.calibration.transforms.rotation.choose import choose_rotations
from autoq.recipe import SiteConfig
from autoq.runs.images import CalibrationImages
from autoq.runs.session import Session
from autoq.scoring.evaluator import choose_batch_size


def rotate_for(
    session: Session,
    images: Callable[[], CalibrationImages],
    known: BankContent | None = None,
    progress: Callable[[int], None] | None = None,
) -> Session:
    """Return the model with the rotations that help on these images; full precision is unchanged up to rounding.

    Args:
        session: the model.
        images: gives the calibration images; one full-precision pass over some of them finds the rotations,
        known: unless this bank of the model names them.
        progress: called with the number of images of each batch that is observed.
    """
    if known is not None and "rotated" in known.description:
        return session.rotated_by(known.description["rotated"])
    return session.rotated_by(choose_rotations(session.model, _batches(session, images), progress))


def centre_keys_for(
    session: Session,
    images: Callable[[], CalibrationImages],
    known: BankContent | None = None,
    progress: Callable[[int], None] | None = None,
) -> Session:
    """Return the model with attention keys centred where that helps on these images; full precision is unchanged.

    Args:
        session: the model.
        images: gives the calibration images; one full-precision pass over them finds the centres,
        known: unless this bank of the model has them.
        progress: called with the number of images of each batch that is observed.
    """
    if known is not None and "centred" in known.description:
        return session.centred_by(known.folded.centres)
    return session.centred_by(choose_centres(session.model, _batches(session, images), progress))


def rescale_for(
    session: Session,
    norms: Mapping[str, int],
    images: Callable[[], CalibrationImages],
    settings: CalibrationSettings,
    known: BankContent | None = None,
    progress: Callable[[int], None] | None = None,
    recipe_sites: Mapping[str, SiteConfig] | None = None,
) -> Session:
    """Return the model with reparameterized LayerNorms (RepQ-ViT); full precision is unchanged up to rounding.

    Args:
        session: the model.
        norms: LayerNorm sites, and the bits of the quantizers that they feed.
        images: gives the calibration images; one pass over them finds the factors,
        settings: as these say,
        known: unless this bank of the model has them.
        progress: called with the number of images of each batch that is observed.
        recipe_sites: the recipe that is solved, where ``settings.inputs`` are quantized.

    Raises:
        CalibrationError: a LayerNorm feeds something else than linear layers.
    """
    if not norms:
        return session
    if known is not None and known.folded.factors.keys() == norms.keys():
        factors = known.folded.factors
    else:
        batches = _batches(session, images)
        factors = observe_factors(session.model, batches, norms, settings, recipe_sites, progress)
    return session.rescaled_by(norms, factors)


def known_of(session: Session, bank: str | os.PathLike[str]) -> BankContent | None:
    """Return what a directory has of a bank of this model, or None."""
    found = read_bank(bank)
    is_own = found is not None and found.description.get("weights_sha256") == session.loaded.weights_sha256
    return found if is_own else None


def _batches(session: Session, images: Callable[[], CalibrationImages]) -> Sequence[Tensor]:
    return torch.split(images().tensor, choose_batch_size(session.traced))
