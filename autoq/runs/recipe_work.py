"""What is opened to work on a finished or calibrated recipe: its model, its operands, its images and further ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from autoq.errors import CalibrationError, MethodError
from autoq.events import PhaseAdvanced, PhaseStarted, Progress
from autoq.recipe import Recipe
from autoq.runs.calibrated import CalibratedRecipe
from autoq.runs.images import CalibrationImages, LabelledImages, to_learn_from
from autoq.runs.labels import check_named, warn_of_shared_images
from autoq.runs.opening import calibration_reference
from autoq.runs.recipes import (
    OwnImages,
    calibrated_on,
    find_bank,
    name_of,
    open_model,
    options_of,
    own_images,
    read_solved,
)
from autoq.runs.session import Session
from autoq.tasks import task_from_record

SettingsT = TypeVar("SettingsT")


def make_checked(kind: Callable[..., SettingsT], given: Mapping[str, Any]) -> SettingsT:
    """Make settings of what a person has given; the rest have their defaults.

    Args:
        kind: of settings, such as ``FinishingSettings``.
        given: by name; None: not given.

    Raises:
        MethodError: a value is out of its range.
    """
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except CalibrationError as error:
        raise MethodError(str(error)) from error


def open_session(
    recipe: Recipe, model: str | None, device: str, session: Session | None, progress: Progress
) -> Session:
    """Open a recipe's model, or check that the one at hand is.

    Args:
        recipe: names the model.
        model: the model's name, if it is not where the recipe says.
        device: as in ``Session.open``.
        session: the model, already open; ``model`` and ``device`` are then not used.
        progress: told that the model is opened.

    Raises:
        InputError: there is no such model, or it is not the recipe's.
    """
    progress(PhaseStarted("model", detail=model or recipe.model.name))
    if session is None:
        return open_model(recipe, model, device)
    session.check(recipe)
    return replace(session, task=task_from_record(recipe.task))


@dataclass(frozen=True)
class RecipeWork:
    """Which images a recipe is worked on with.

    Attributes:
        data: images to learn from, by name or as in ``GivenImages``; None: where the recipe's calibration images are
            from.
        images: how many, at most.
        seed: that chooses them.
        eval_data: labelled images to measure accuracy on, likewise, or None.
        calib_data: the calibration images, likewise, if they have moved or the recipe names none.
    """

    data: object
    images: int
    seed: int
    eval_data: object = None
    calib_data: object = None

    def check_named(self) -> None:
        """Refuse names of images that cannot be opened, before the model is loaded.

        Raises:
            DataError: there are no such images.
        """
        check_named((self.data, "calibration"), (self.calib_data, "calibration"), (self.eval_data, "evaluation"))

    def open(
        self, session: Session, recipe: Recipe, enter: Callable[[], object], progress: Progress
    ) -> tuple[CalibratedRecipe, CalibrationImages]:
        """Load the images, and find the recipe's operands or solve them again.

        Args:
            session: the recipe's model.
            recipe: what is worked on.
            enter: called once all images are known to be good.
            progress: told what happens.

        Returns:
            The recipe with its operands, and the images to learn from.

        Raises:
            InputError: the images or the files beside the recipe are missing, damaged or another recipe's.
        """
        data = self.data
        if data is None and recipe.calibration is not None:
            data = recipe.calibration.data
        calib_data = self._calibration_data(recipe, data) if self.calib_data is None else self.calib_data
        recipe = calibrated_on(recipe, calib_data)
        labelled = None if self.eval_data is None else session.labelled_images(self.eval_data)
        warn_of_shared_images(data, self.eval_data)
        progress(PhaseStarted("images", self.images, data if isinstance(data, str) else ""))
        own = own_images(session, recipe, calib_data)
        session = session.fitted(lambda: own.calibrating)
        images = to_learn_from(
            lambda count, spare: session.calibration_images(data, count, self.seed, spare), self.images, own.held_out
        )
        enter()
        return _open_operands(session, recipe, own, labelled, progress), images

    def _calibration_data(self, recipe: Recipe, data: object) -> object:
        """Return ``data`` if that is what the recipe was calibrated on, or will be; None if the recipe knows better."""
        if recipe.calibration is None:
            return data
        return data if not isinstance(data, str) and recipe.calibration.data == name_of(data) else None


def _open_operands(
    session: Session, recipe: Recipe, own: OwnImages, labelled: LabelledImages | None, progress: Progress
) -> CalibratedRecipe:
    """Read the operands of a finished recipe; find the bank of a calibrated one, or solve it again."""
    images, scoring = own.calibrating, own.held_out
    if recipe.solved is not None:
        session, operands = read_solved(session, recipe)
        return CalibratedRecipe(session, operands, recipe.solved.sha256, recipe, images, labelled, scoring)
    session, bank = find_bank(session, recipe, lambda: images)
    options = options_of(recipe.sites)
    if not len(bank):  # it was not found
        progress(PhaseStarted("calibration", len(options)))
    bank.solve_all(options, lambda done, _: progress(PhaseAdvanced("calibration", done)))
    recipe = recipe.model_copy(update={"calibration": calibration_reference(images, bank, scoring)})
    return CalibratedRecipe.from_bank(session, bank, recipe, images, labelled, scoring)
