"""Apply a recipe to its model and measure it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from autoq.calibration import Bank, CalibrationSettings
from autoq.calibration.bank.files import read_bank
from autoq.cost import ModelCost, model_cost
from autoq.errors import CalibrationError, ModelError, RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.recipe import CalibrationReference, OperandConfig, Recipe, SiteConfig
from autoq.runs.images import CalibrationImages
from autoq.runs.session import Session
from autoq.scoring.accuracy import Accuracy, Hits
from autoq.scoring.discrepancy import Discrepancy, Score
from autoq.scoring.evaluator import Evaluator, finite_logits
from autoq.scoring.solved_operands import SolvedOperands, read_operands
from autoq.scoring.sources import QuantizerSource, SolvedSource

MODEL_FOLDER = "model"
"""Where a model lies that was made for recipes: beside them, or beside their folder."""

_logger = logging.getLogger(__name__)
_IMAGES = 128
"""Calibration images of a recipe that does not say how many it wants."""


@dataclass(frozen=True)
class Measurement:
    """Cost, discrepancy and (where there are labels) accuracy of a recipe."""

    cost: ModelCost
    score: Score
    accuracy: Accuracy | None


def evaluate_recipe(
    recipe: Recipe,
    folder: Path,
    data: str | None = None,
    model: str | None = None,
    device: str = "auto",
    calib_data: str | None = None,
) -> Measurement:
    """Load a recipe's model and its bank or reconstructed weights, and measure it.

    Args:
        recipe: what to apply.
        folder: where the recipe lies; its bank is looked for beside it (``bank/``, ``../bank/``).
        data: images to measure on, all of them; None: the recipe's calibration images, which reproduces its score.
        model: the model, if it is not where the recipe says.
        device: as in ``Session.open``.
        calib_data: the calibration images, if they have moved or the recipe names none.

    Raises:
        InputError: the recipe, its model or the images do not fit together.
        NonFiniteError: the quantized model produces NaN or infinity.
    """
    session = open_model(recipe, folder, model, device)
    if calib_data is not None:
        recipe = calibrated_on(recipe, calib_data)
    images = cache(lambda: own_images(session, recipe))
    calibrated, source = _find_quantizers(session, recipe, folder, images)
    cost = model_cost(session.traced.sites, recipe.sites)
    if data is None:
        evaluator = Evaluator(calibrated.model, source, images().tensor)
        return Measurement(cost, evaluator.evaluate(recipe.sites), None)
    labelled = session.labelled_images(data, required=False)
    batches: Iterable[tuple[Tensor, Tensor | None]] = (
        labelled.batches() if labelled else ((images, None) for images in session.unlabelled_batches(data))
    )
    score, accuracy = measure(calibrated.model, source, recipe.sites, batches)
    return Measurement(cost, score, accuracy)


def options_of(sites: Mapping[str, SiteConfig]) -> list[tuple[str, str, OperandConfig]]:
    """A recipe's operands and their configurations, as ``Bank.solve_all`` takes them."""
    return [(site, operand, config) for site, operands in sites.items() for operand, config in operands.items()]


def open_model(recipe: Recipe, folder: Path, model: str | None = None, device: str = "auto") -> Session:
    """The model that a recipe is for: where the recipe says, else beside it (``model/``, ``../model/``).

    Args:
        recipe: names the model.
        folder: where the recipe lies.
        model: the model, if it is elsewhere.
        device: as in ``Session.open``.

    Raises:
        ModelError: there is no such model.
        RecipeError: it has other weights, or lacks a site or operand of the recipe.
    """
    try:
        session = Session.open(model or recipe.model.name, recipe.model.pretrained, device)
    except ModelError:
        beside = _model_beside(recipe, folder, device) if model is None else None
        if beside is None:
            raise
        session = beside
    if model is None and session.loaded.weights_sha256 != recipe.model.weights_sha256:
        session = _model_beside(recipe, folder, device) or session
    session.check(recipe)
    return session


def _model_beside(recipe: Recipe, folder: Path, device: str) -> Session | None:
    """A model beside a recipe that has the recipe's weights."""
    for path in (folder / MODEL_FOLDER, folder.parent / MODEL_FOLDER):
        try:
            session = Session.open(f"local-dir:{path}", True, device) if path.is_dir() else None
        except ModelError as error:
            _logger.info("%s", error)
            continue
        if session is not None and session.loaded.weights_sha256 == recipe.model.weights_sha256:
            return session
    return None


def _find_quantizers(
    session: Session, recipe: Recipe, folder: Path, images: Callable[[], CalibrationImages]
) -> tuple[Session, QuantizerSource]:
    """What fills a recipe's slots, and its model."""
    if recipe.reconstruction is not None:
        session, operands = _read_reconstructed(session, recipe, folder)
        return session, SolvedSource(session.model, operands)
    session, bank = find_bank(session, recipe, folder, images)
    bank.solve_all(options_of(recipe.sites))
    return session, bank


def _read_reconstructed(session: Session, recipe: Recipe, folder: Path) -> tuple[Session, SolvedOperands]:
    """The operands of a reconstructed recipe, from its file alone, and its model.

    Args:
        session: the recipe's model.
        recipe: with a ``reconstruction``.
        folder: where the recipe lies, and the file.

    Raises:
        RecipeError: the file is missing, damaged, or another than the recipe's.
    """
    assert recipe.reconstruction is not None  # noqa: S101
    path = folder / recipe.reconstruction.file
    found = read_operands(path, session.model)
    if found.sha256 != recipe.reconstruction.sha256:
        raise RecipeError(
            f"{str(path)!r} is not the recipe's: its SHA-256 is {found.sha256[:12]}, not "
            f"{recipe.reconstruction.sha256[:12]}; put the file that was written with the recipe beside it"
        )
    if found.operands.sites != {site: operands for site, operands in recipe.sites.items() if operands}:
        raise RecipeError(
            f"the recipe's sites are not those that {str(path)!r} was reconstructed for: undo the changes, or "
            "reconstruct the recipe again"
        )
    if found.factors.keys() != recipe.reparameterized.keys():
        raise RecipeError(f"{str(path)!r} has no factors for the recipe's LayerNorms: reconstruct the recipe again")
    try:
        return session.rescaled_by(recipe.reparameterized, found.factors), found.operands
    except CalibrationError as error:
        raise RecipeError(f"{str(path)!r} does not fit the model: {error}; reconstruct the recipe again") from error


def find_bank(
    session: Session, recipe: Recipe, folder: Path, images: Callable[[], CalibrationImages]
) -> tuple[Session, Bank]:
    """The bank that a recipe names, or one that will be solved again from its calibration images, and its model.

    Raises:
        RecipeError: the recipe does not say what it was calibrated on, or by settings that do not exist.
        RunDirectoryError: the bank's files contradict each other.
    """
    calibration = _calibration_of(recipe)
    settings = CalibrationSettings.from_json(
        {"observer": calibration.observer, "seed": calibration.seed, **calibration.settings}
    )
    for directory in (folder / "bank", folder.parent / "bank"):
        content = read_bank(directory) if calibration.bank_fingerprint else None
        if content is not None and content.fingerprint == calibration.bank_fingerprint:
            session = session.rescaled(recipe.reparameterized, images, directory)
            sha256 = content.description["images_sha256"]
            bank = session.bank(images, sha256, settings, recipe_sites=recipe.sites)
            bank.load(directory)
            return session, bank
    if calibration.bank_fingerprint:
        _logger.warning("the recipe's bank is not beside it: solving it again from %s", calibration.data)
    session = session.rescaled(recipe.reparameterized, images)
    bank = session.bank(images, images().sha256, settings, recipe_sites=recipe.sites)
    if calibration.bank_fingerprint not in ("", bank.fingerprint):
        _logger.warning("the images or autoq have changed since the recipe was calibrated: expect another score")
    return session, bank


def calibrated_on(recipe: Recipe, data: str) -> Recipe:
    """The recipe with other calibration images, its other settings kept where it has any."""
    own = recipe.calibration or CalibrationReference(
        data=data, images=_IMAGES, seed=0, observer=CalibrationSettings.observer, bank_fingerprint=""
    )
    return recipe.model_copy(update={"calibration": own.model_copy(update={"data": data})})


def own_images(session: Session, recipe: Recipe) -> CalibrationImages:
    """A recipe's calibration images.

    Raises:
        RecipeError: the recipe does not say which they are.
        DataError: there are no such images, or one cannot be read.
    """
    calibration = _calibration_of(recipe)
    return session.calibration_images(calibration.data, calibration.images, calibration.seed)


def _calibration_of(recipe: Recipe) -> CalibrationReference:
    if recipe.calibration is None:
        raise RecipeError(
            "the recipe does not name its calibration images: give them with --calib-data, best not those to measure on"
        )
    return recipe.calibration


def measure(
    model: QuantizedModel,
    source: QuantizerSource,
    sites: Mapping[str, SiteConfig],
    batches: Iterable[tuple[Tensor, Tensor | None]],
) -> tuple[Score, Accuracy | None]:
    """Full precision and a recipe's sites side by side, batch by batch.

    Args:
        model: the model that ``source`` is for.
        source: gives the quantizers.
        sites: the recipe's.
        batches: images of shape (N, C, H, W) and their class indices, or None where there are no labels.

    Raises:
        NonFiniteError: the quantized model produces NaN or infinity.
        ValueError: there is no image.
    """
    discrepancy = Discrepancy()
    hits = Hits()
    with torch.inference_mode():
        for images, labels in batches:
            model.remove_()
            reference = finite_logits(model, images)
            source.apply_(sites)
            logits = finite_logits(model, images)
            discrepancy.add(reference, logits)
            if labels is not None:
                hits.add(logits, labels)
    return discrepancy.score(), hits.accuracy() if hits.images else None
