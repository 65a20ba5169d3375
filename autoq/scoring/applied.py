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
from autoq.calibration.bank_files import read_bank
from autoq.cost import ModelCost, model_cost
from autoq.errors import RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.recipe import CalibrationReference, OperandConfig, Recipe, SiteConfig
from autoq.scoring.accuracy import Accuracy, Hits
from autoq.scoring.discrepancy import Discrepancy, Score
from autoq.scoring.evaluator import Evaluator, finite_logits
from autoq.scoring.session import CalibrationImages, Session

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
    """Load a recipe's model and bank, and measure it.

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
    session = Session.open(model or recipe.model.name, recipe.model.pretrained, device)
    session.check(recipe)
    if calib_data is not None:
        recipe = _calibrated_on(recipe, calib_data)
    images = cache(lambda: _own_images(session, recipe))
    calibrated, bank = _find_bank(session, recipe, folder, images)
    bank.solve_all(options_of(recipe.sites))
    cost = model_cost(session.traced.sites, recipe.sites)
    if data is None:
        evaluator = Evaluator(calibrated.model, bank, images().tensor)
        return Measurement(cost, evaluator.evaluate(recipe.sites), None)
    labelled = session.labelled_images(data, required=False)
    batches: Iterable[tuple[Tensor, Tensor | None]] = (
        labelled.batches() if labelled else ((images, None) for images in session.unlabelled_batches(data))
    )
    score, accuracy = measure(calibrated.model, bank, recipe.sites, batches)
    return Measurement(cost, score, accuracy)


def options_of(sites: Mapping[str, SiteConfig]) -> list[tuple[str, str, OperandConfig]]:
    """A recipe's operands and their configurations, as ``Bank.solve_all`` takes them."""
    return [(site, operand, config) for site, operands in sites.items() for operand, config in operands.items()]


def _find_bank(
    session: Session, recipe: Recipe, folder: Path, images: Callable[[], CalibrationImages]
) -> tuple[Session, Bank]:
    """The bank that a recipe names, or one that will be solved again from its calibration images, and its model.

    Raises:
        RecipeError: the recipe does not say what it was calibrated on, or by settings that do not exist.
        RunDirectoryError: the bank's files contradict each other.
    """
    calibration = recipe.calibration
    if calibration is None:
        raise RecipeError(
            "the recipe does not name its calibration images: give them with --calib-data, best not those to measure on"
        )
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


def _calibrated_on(recipe: Recipe, data: str) -> Recipe:
    """The recipe with other calibration images, its other settings kept where it has any."""
    own = recipe.calibration or CalibrationReference(
        data=data, images=_IMAGES, seed=0, observer=CalibrationSettings.observer, bank_fingerprint=""
    )
    return recipe.model_copy(update={"calibration": own.model_copy(update={"data": data})})


def _own_images(session: Session, recipe: Recipe) -> CalibrationImages:
    calibration = recipe.calibration
    assert calibration is not None  # noqa: S101 - _find_bank has refused such a recipe
    return session.calibration_images(calibration.data, calibration.images, calibration.seed)


def measure(
    model: QuantizedModel,
    bank: Bank,
    sites: Mapping[str, SiteConfig],
    batches: Iterable[tuple[Tensor, Tensor | None]],
) -> tuple[Score, Accuracy | None]:
    """Full precision and a recipe's sites side by side, batch by batch.

    Args:
        model: the model that ``bank`` was solved for.
        bank: gives the quantizers.
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
            bank.apply_(sites)
            logits = finite_logits(model, images)
            discrepancy.add(reference, logits)
            if labels is not None:
                hits.add(logits, labels)
    return discrepancy.score(), hits.accuracy() if hits.images else None
