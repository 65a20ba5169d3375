"""A recipe met with its model: where both are found, and how operands are solved."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from autoq.calibration.settings import CalibrationSettings
from autoq.errors import InputError, RecipeError
from autoq.exporters import pick
from autoq.methods import BitWidths, create_method
from autoq.models.saving import save_model
from autoq.recipe import Recipe
from autoq.runs.images import CalibrationImages
from autoq.runs.opening import calibration_reference
from autoq.runs.recipes import calibrated_on, open_model, options_of, own_images, solve_recipe
from tests.runs.small_run import finished_run, small_session


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return pick(finished_run(), "best")[1]


def rtn(bits: str = "w4a4") -> Recipe:
    session = small_session()
    return Recipe(model=session.reference, sites=create_method("rtn").sites(session.traced, BitWidths.parse(bits)))


def test_options_are_the_operands_of_a_recipe() -> None:
    recipe = rtn()
    options = options_of(recipe.sites)
    assert len(options) == sum(map(len, recipe.sites.values()))
    assert all(recipe.sites[site][operand] == config for site, operand, config in options)
    assert options_of({}) == []


def test_other_calibration_images_keep_the_other_settings() -> None:
    recipe = rtn()
    assert calibrated_on(recipe, None) is recipe
    first = calibrated_on(recipe, "digits").calibration
    assert first is not None
    assert (first.data, first.seed, first.observer, first.bank_fingerprint) == ("digits", 0, "mse", "")
    own = first.model_copy(update={"images": 7, "seed": 3, "observer": "min_max"})
    again = calibrated_on(recipe.model_copy(update={"calibration": own}), torch.zeros(2, 1, 8, 8)).calibration
    assert again == own.model_copy(update={"data": "memory:Tensor"})


def test_a_recipes_own_images_are_the_same_each_time() -> None:
    session = small_session()
    recipe = calibrated_on(rtn(), "digits")
    assert recipe.calibration is not None
    seeded = recipe.calibration.model_copy(update={"images": 5, "seed": 3})
    recipe = recipe.model_copy(update={"calibration": seeded})
    own = own_images(session, recipe)
    images = own.calibrating
    assert own.scoring is images
    assert (len(images.tensor), images.data) == (5, "digits")
    assert images.sha256 == session.calibration_images("digits", 5, 3).sha256
    given = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert own_images(session, recipe, given).calibrating.sha256 == session.calibration_images(given, 5, 3).sha256
    with pytest.raises(RecipeError, match="--calib-data"):
        own_images(session, rtn())
    held_out = recipe.model_copy(update={"calibration": seeded.model_copy(update={"scoring_images": 3})})
    both = own_images(session, held_out)
    assert both.calibrating.sha256 == images.sha256
    assert torch.equal(both.scoring.tensor, session.calibration_images("digits", 8, 3).tensor[5:])


def test_every_operand_is_solved_from_a_bank_or_afresh(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings(observer="min_max"))
    recipe = rtn().model_copy(update={"calibration": calibration_reference(images, bank)})
    bank.solve_all(options_of(recipe.sites))
    bank.save(tmp_path / "bank")

    def not_needed() -> CalibrationImages:
        raise AssertionError("the bank has everything")

    _, read = solve_recipe(session, recipe.located(tmp_path), not_needed)
    assert not caplog.records
    _, solved = solve_recipe(session, recipe.located(tmp_path / "some" / "where"), lambda: images)
    assert "the recipe's bank is not beside it" in caplog.text
    assert read.quantizers.keys() == solved.quantizers.keys() == {option[:2] for option in options_of(recipe.sites)}
    for key, quantizer in read.quantizers.items():
        other = solved.quantizers[key].state_dict()
        assert all(torch.equal(value, other[name]) for name, value in quantizer.state_dict().items()), key


@pytest.mark.slow
def test_a_model_that_has_moved_with_its_recipe(recipe: Recipe, tmp_path: Path) -> None:
    """It is found beside the recipe, or one folder above, if it is the right one."""
    own = small_session()
    for folder in (tmp_path / "a" / "model", tmp_path / "b" / "model"):
        save_model(own.loaded.module, folder)
    gone = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"name": f"local-dir:{tmp_path / 'gone'}"})}
    )
    assert open_model(gone.located(tmp_path / "a")).loaded.name == f"local-dir:{tmp_path / 'a' / 'model'}"
    assert open_model(gone.located(tmp_path / "b" / "recipes")).loaded.name == f"local-dir:{tmp_path / 'b' / 'model'}"

    other = recipe.model_copy(update={"model": gone.model.model_copy(update={"weights_sha256": "ab" * 32})})
    for given, folder, expected in (
        (gone, tmp_path / "c", "there is no folder"),
        (other, tmp_path / "a", "there is no folder"),
        (
            other.model_copy(update={"model": other.model.model_copy(update={"name": "vit_digits"})}),
            tmp_path / "a",
            "made",
        ),
    ):
        with pytest.raises(InputError, match=expected):
            open_model(given.located(folder))
    with pytest.raises(InputError, match="there is no folder"):
        open_model(gone.located(tmp_path / "a"), model=f"local-dir:{tmp_path / 'gone'}")

    changed = copy.deepcopy(own.loaded.module)
    torch.nn.init.zeros_(changed.head.bias)
    save_model(changed, tmp_path / "gone")  # another model where the recipe says
    assert open_model(gone.located(tmp_path / "a")).loaded.weights_sha256 == recipe.model.weights_sha256
    with pytest.raises(RecipeError, match="made for the weights"):
        open_model(gone.located(tmp_path / "c"))
