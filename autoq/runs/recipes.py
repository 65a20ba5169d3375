"""Open the model of a recipe, and find or solve the recipe's quantizers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from autoq.calibration import Bank, CalibrationSettings
from autoq.calibration.bank.files import BankContent, read_bank
from autoq.data import GivenImages
from autoq.errors import CalibrationError, ModelError, RecipeError
from autoq.recipe import CalibrationReference, OperandConfig, Recipe, SiteConfig
from autoq.runs.images import CalibrationImages
from autoq.runs.session import Session
from autoq.runs.transforming import centre_keys_for, rescale_for
from autoq.scoring.solved_operands import SolvedOperands, read_operands
from autoq.scoring.sources import QuantizerSource, SolvedSource
from autoq.tasks import task_from_record

MODEL_FOLDER = "model"
"""Where a model lies that was made for recipes: beside them, or beside their folder."""

_logger = logging.getLogger(__name__)
_IMAGES = 128
"""Calibration images of a recipe that does not say how many it wants."""


def options_of(sites: Mapping[str, SiteConfig]) -> list[tuple[str, str, OperandConfig]]:
    """Return a recipe's operands and their configurations, as ``Bank.solve_all`` takes them."""
    return [(site, operand, config) for site, operands in sites.items() for operand, config in operands.items()]


def open_model(recipe: Recipe, model: str | None = None, device: str = "auto") -> Session:
    """Open the model of a recipe: where the recipe says, else beside it (``model/``, ``../model/``).

    Args:
        recipe: names the model.
        model: the model, if it is elsewhere.
        device: as in ``Session.open``.

    Raises:
        ModelError: there is no such model.
        TaskError: the recipe is for a task that does not exist.
        RecipeError: it has other weights, or lacks a site or operand of the recipe.
    """
    task = task_from_record(recipe.task)
    try:
        session = Session.open(model or recipe.model.name, recipe.model.pretrained, device)
    except ModelError:
        beside = _model_beside(recipe, device) if model is None else None
        if beside is None:
            raise
        session = beside
    if model is None and session.loaded.weights_sha256 != recipe.model.weights_sha256:
        session = _model_beside(recipe, device) or session
    session.check(recipe)
    return replace(session, task=task)


def _model_beside(recipe: Recipe, device: str) -> Session | None:
    """Return a model beside a recipe that has the recipe's weights."""
    for path in _beside(recipe, MODEL_FOLDER):
        try:
            session = Session.open(f"local-dir:{path}", True, device) if path.is_dir() else None
        except ModelError as error:
            _logger.info("%s", error)
            continue
        if session is not None and session.loaded.weights_sha256 == recipe.model.weights_sha256:
            return session
    return None


def find_quantizers(
    session: Session, recipe: Recipe, images: Callable[[], CalibrationImages]
) -> tuple[Session, QuantizerSource]:
    """Find what fills a recipe's slots: the bank that it names, weights of its own, or a new calibration.

    Args:
        session: the recipe's model.
        recipe: knows where it lies.
        images: gives the calibration images, if they are needed.

    Returns:
        The session, rotated and reparameterized as the recipe says, and the source of its quantizers.

    Raises:
        RecipeError: files beside the recipe are missing, damaged or another recipe's, or it does not say what it was
            calibrated on.
    """
    if recipe.solved is not None:
        session, operands = read_solved(session, recipe)
        return session, SolvedSource(session.model, operands)
    session, bank = find_bank(session, recipe, images)
    bank.solve_all(options_of(recipe.sites))
    return session, bank


def solve_recipe(
    session: Session, recipe: Recipe, images: Callable[[], CalibrationImages]
) -> tuple[Session, SolvedOperands]:
    """Solve every operand of a recipe; arguments and errors as in :func:`find_quantizers`."""
    if recipe.solved is not None:
        return read_solved(session, recipe)
    session, bank = find_bank(session, recipe, images)
    return session, SolvedOperands.from_bank(bank, recipe.sites)


def read_solved(session: Session, recipe: Recipe) -> tuple[Session, SolvedOperands]:
    """Read the operands of a finished or reconstructed recipe from its file alone; return them and the model.

    Args:
        session: the recipe's model.
        recipe: with a file of its own (``recipe.solved``), which lies beside it.

    Raises:
        RecipeError: the file is missing, damaged, or another than the recipe's.
    """
    assert recipe.solved is not None  # noqa: S101
    path = (recipe.folder or Path()) / recipe.solved.file
    session = _rotated(session, recipe)
    found = read_operands(path, session.model)
    if found.sha256 != recipe.solved.sha256:
        raise RecipeError(
            f"{str(path)!r} is not the recipe's: its SHA-256 is {found.sha256[:12]}, not "
            f"{recipe.solved.sha256[:12]}; put the file that was written with the recipe beside it"
        )
    if found.operands.sites != {site: operands for site, operands in recipe.sites.items() if operands}:
        raise RecipeError(
            f"the recipe's sites are not those that {str(path)!r} was solved for: undo the changes, or "
            "finish or reconstruct the recipe again"
        )
    if found.description.get("rotated", {}) != recipe.rotated:
        raise RecipeError(
            f"the recipe's rotations are not those that {str(path)!r} was reconstructed for: undo the changes, or "
            "reconstruct the recipe again"
        )
    if found.folded.factors.keys() != recipe.reparameterized.keys():
        raise RecipeError(f"{str(path)!r} has no factors for the recipe's LayerNorms: reconstruct the recipe again")
    if tuple(found.folded.centres) != recipe.centred:
        raise RecipeError(f"{str(path)!r} has no centres for the recipe's keys: reconstruct the recipe again")
    try:
        session = session.centred_by(found.folded.centres)
        return session.rescaled_by(recipe.reparameterized, found.folded.factors), found.operands
    except CalibrationError as error:
        raise RecipeError(f"{str(path)!r} does not fit the model: {error}; reconstruct the recipe again") from error


def _rotated(session: Session, recipe: Recipe) -> Session:
    """Return the session with the recipe's rotations.

    Raises:
        RecipeError: the model has no such space of channels, or it cannot be rotated.
    """
    try:
        return session.rotated_by(recipe.rotated)
    except CalibrationError as error:
        raise RecipeError(f"the recipe's rotations do not fit the model: {error}") from error


def _centred(
    session: Session, recipe: Recipe, images: Callable[[], CalibrationImages], known: BankContent | None = None
) -> Session:
    """Return the session with the recipe's keys centred, by a bank's centres or by what the images say.

    Raises:
        RecipeError: other keys than the recipe's are worth it.
    """
    if not recipe.centred:
        return session
    centred = centre_keys_for(session, images, known)
    if tuple(centred.folded.centres) != recipe.centred:
        raise RecipeError(
            "the attention keys that are centred are others than the recipe's: the calibration images or autoq have "
            "changed since; keep its bank beside it, or search again"
        )
    return centred


def find_bank(session: Session, recipe: Recipe, images: Callable[[], CalibrationImages]) -> tuple[Session, Bank]:
    """Find a recipe's bank, or make one to be solved from its calibration images; return it and the model.

    Raises:
        RecipeError: the recipe does not say what it was calibrated on, or by settings that do not exist, or its
            rotations do not fit the model.
        RunDirectoryError: the bank's files contradict each other.
    """
    calibration = _calibration_of(recipe)
    session = _rotated(session, recipe)
    settings = CalibrationSettings.from_json(
        {"observer": calibration.observer, "seed": calibration.seed, **calibration.settings}
    )
    for directory in _beside(recipe, "bank"):
        content = read_bank(directory) if calibration.bank_fingerprint else None
        if content is not None and content.fingerprint == calibration.bank_fingerprint:
            session = _centred(session, recipe, images, content)
            session = rescale_for(session, recipe.reparameterized, images, settings, content)
            sha256 = content.description["images_sha256"]
            bank = session.bank(images, sha256, settings, recipe_sites=recipe.sites)
            bank.load(directory)
            return session, bank
    if calibration.bank_fingerprint:
        _logger.warning("the recipe's bank is not beside it: solving it again from %s", calibration.data)
    session = _centred(session, recipe, images)
    session = rescale_for(session, recipe.reparameterized, images, settings, recipe_sites=recipe.sites)
    bank = session.bank(images, images().sha256, settings, recipe_sites=recipe.sites)
    if calibration.bank_fingerprint not in ("", bank.fingerprint):
        _logger.warning("the images or autoq have changed since the recipe was calibrated: expect another score")
    return session, bank


def _beside(recipe: Recipe, name: str) -> tuple[Path, ...]:
    """Return the paths where a file of a recipe may lie: beside the recipe, or beside its folder."""
    return () if recipe.folder is None else (recipe.folder / name, recipe.folder.parent / name)


def calibrated_on(recipe: Recipe, data: object) -> Recipe:
    """Name other calibration images in a recipe, its other settings kept where it has any.

    Args:
        recipe: what is calibrated.
        data: by name or as in ``GivenImages``; None: the recipe as it is.
    """
    if data is None:
        return recipe
    name = name_of(data)
    own = recipe.calibration or CalibrationReference(
        data=name, images=_IMAGES, seed=0, observer=CalibrationSettings.observer, bank_fingerprint=""
    )
    return recipe.model_copy(update={"calibration": own.model_copy(update={"data": name})})


def name_of(data: object) -> str:
    """Return the name that records give to images passed by name or as ``GivenImages``."""
    return data if isinstance(data, str) else GivenImages(data).name


@dataclass(frozen=True)
class OwnImages:
    """The images of a recipe.

    Attributes:
        calibrating: that it was calibrated on.
        scoring: that it was scored on; the same object if these are no others.
    """

    calibrating: CalibrationImages
    scoring: CalibrationImages

    @property
    def held_out(self) -> CalibrationImages | None:
        """The images that score where they are others than those that calibrate."""
        return None if self.scoring is self.calibrating else self.scoring


def own_images(session: Session, recipe: Recipe, data: object = None) -> OwnImages:
    """Load the images that a recipe was calibrated and scored on.

    Args:
        session: the recipe's model.
        recipe: says which images, how many of them, and with which seed they are chosen.
        data: where the images are, if they are given as an object.

    Raises:
        RecipeError: the recipe does not say which they are.
        DataError: there are no such images, or one cannot be read.
    """
    calibration = _calibration_of(recipe)
    source, count = calibration.data if data is None else data, calibration.images
    loaded = session.calibration_images(source, count, calibration.seed, calibration.scoring_images)
    if len(loaded.tensor) <= count:
        return OwnImages(loaded, loaded)
    parts = (replace(loaded, tensor=part) for part in (loaded.tensor[:count], loaded.tensor[count:]))
    return OwnImages(*parts)


def _calibration_of(recipe: Recipe) -> CalibrationReference:
    if recipe.calibration is None:
        raise RecipeError(
            "the recipe does not name its calibration images: give them with --calib-data, best not those to measure on"
        )
    return recipe.calibration
