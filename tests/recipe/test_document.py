"""Recipe files: what is written, what is read back, and what is said about the ones that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from autoq.recipe import ModelReference, OperandConfig, OperandsReference, Recipe, hash_sites
from tests.recipe.recipes import GROUPS, LOG, RECONSTRUCTED, WEIGHT, complaint, document, make_recipe, saved


def test_round_trip(tmp_path: Path) -> None:
    recipe = make_recipe()
    recipe.save(tmp_path / "a.json")
    assert Recipe.load(tmp_path / "a.json") == recipe


def test_random_weights_are_remembered(tmp_path: Path) -> None:
    recipe = make_recipe(model=ModelReference(name="vit_tiny_patch16_224", weights_sha256="0", pretrained=False))
    recipe.save(tmp_path / "a.json")
    assert Recipe.load(tmp_path / "a.json").model.pretrained is False
    make_recipe().save(tmp_path / "b.json")
    assert "pretrained" not in (tmp_path / "b.json").read_text()


def test_one_operand_a_line_and_no_defaults(tmp_path: Path) -> None:
    make_recipe(calibration=None, cost=None, score=None).save(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == (
        "{\n"
        '  "schema_version": 1,\n'
        '  "model": {"name": "local-dir:models/mine", "weights_sha256": "' + "ab" * 32 + '"},\n'
        '  "sites": {\n'
        '    "blocks.0.attn.qkv": {\n'
        '      "input": {"scheme": "instance_groups", "bits": 3, "groups": 8},\n'
        '      "weight": {"scheme": "uniform", "bits": 4, "granularity": "channel"}\n'
        "    },\n"
        '    "blocks.0.attn.av": {\n'
        '      "lhs": {"scheme": "adalog", "bits": 4, "log_base_numerator": 31, "overflow": "extra_zero"}\n'
        "    }\n"
        "  }\n"
        "}\n"
    )


def test_a_recipe_that_quantizes_nothing(tmp_path: Path) -> None:
    make_recipe(sites={}).save(tmp_path / "a.json")
    assert Recipe.load(tmp_path / "a.json").sites == {}


def test_hash_is_of_the_operands_alone() -> None:
    recipe = make_recipe()
    reordered = make_recipe(
        sites={"blocks.0.attn.av": {"lhs": LOG}, "blocks.0.attn.qkv": {"weight": WEIGHT, "input": GROUPS}},
        model=ModelReference(name="another", weights_sha256="cd"),
        calibration=None,
        cost=None,
        score=None,
    )
    assert recipe.content_hash == reordered.content_hash == hash_sites(recipe.sites)
    five = {"blocks.0.attn.qkv": {"weight": WEIGHT.model_copy(update={"bits": 5}), "input": GROUPS}}
    assert make_recipe(sites=recipe.sites | five).content_hash != recipe.content_hash


def test_rotations_are_part_of_the_content(tmp_path: Path) -> None:
    rotated = [make_recipe(rotated={"embed": seed}) for seed in (0, 1)]
    rescaled = make_recipe(reparameterized={"embed": 0})
    centred = make_recipe(centred=("embed",))
    assert len({recipe.content_hash for recipe in (make_recipe(), rescaled, centred, *rotated)}) == 5
    centred.save(tmp_path / "centred.json")
    assert Recipe.load(tmp_path / "centred.json") == centred
    assert "centred" not in make_recipe().to_json()
    rotated[0].save(tmp_path / "a.json")
    assert Recipe.load(tmp_path / "a.json") == rotated[0]
    assert '"rotated": {"embed": 0}' in (tmp_path / "a.json").read_text()


def test_reconstructed_weights_are_part_of_the_content() -> None:
    recipe = make_recipe()
    first, other = (
        make_recipe(reconstruction=RECONSTRUCTED.model_copy(update={"sha256": value * 32})) for value in ("cd", "ef")
    )
    assert len({recipe.content_hash, first.content_hash, other.content_hash}) == 3
    more = make_recipe(reconstruction=RECONSTRUCTED.model_copy(update={"iterations": 3}))
    assert more.content_hash == first.content_hash, "that is a record"


def test_where_operands_lie_is_no_part_of_the_content(tmp_path: Path) -> None:
    recipe = make_recipe()
    exported = recipe.model_copy(update={"operands": OperandsReference(file="mine.safetensors", sha256="0" * 64)})
    assert exported.content_hash == recipe.content_hash
    assert exported.solved is not None
    assert exported.improved is None
    exported.save(tmp_path / "recipe.json")
    assert Recipe.load(tmp_path) == exported, "a folder that has one"
    assert Recipe.load(tmp_path).folder == tmp_path


def test_hash_does_not_change_between_versions() -> None:
    """Stored trials are recognised by it."""
    sites = {"head": {"weight": WEIGHT, "input": OperandConfig(scheme="uniform", bits=8)}}
    assert hash_sites(sites) == "a2c653b5a8a22c6d486f7143514067ffeab7a24b453230ca234e056556dd86fe"


def test_unknown_keys_are_named_with_the_nearest(tmp_path: Path) -> None:
    wrong = document()
    wrong["sites"]["blocks.0.attn.av"]["lhs"] = {"scheme": "adalog", "bitz": 4}
    message = complaint(saved(tmp_path, wrong))
    assert "unknown key 'sites.blocks.0.attn.av.lhs.bitz'. Did you mean 'bits'?" in message

    assert "unknown key 'site'. Did you mean 'sites'?" in complaint(saved(tmp_path, document() | {"site": {}}))

    wrong = document()
    wrong["calibration"]["image"] = 3
    assert "unknown key 'calibration.image'. Did you mean 'images'?" in complaint(saved(tmp_path, wrong))


def test_missing_keys(tmp_path: Path) -> None:
    wrong = document()
    del wrong["model"]
    assert "model is missing" in complaint(saved(tmp_path, wrong))


def test_another_schema_version(tmp_path: Path) -> None:
    assert "schema_version" in complaint(saved(tmp_path, document() | {"schema_version": 2}))


def test_not_json(tmp_path: Path) -> None:
    assert "is not JSON" in complaint(saved(tmp_path, '{"schema_version": 1,'))
    assert "is not JSON" in complaint(saved(tmp_path, ""))


@pytest.mark.parametrize("text", ["[]", "3", "null", '"recipe"'])
def test_json_that_is_no_object(tmp_path: Path, text: str) -> None:
    message = complaint(saved(tmp_path, text))
    assert ": :" not in message
    assert "dictionary" in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "No such file" in complaint(tmp_path / "absent.json")
    assert "directory" in complaint(tmp_path)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00{")
    assert "not UTF-8" in complaint(tmp_path / "binary.json")


def test_recipes_do_not_change() -> None:
    with pytest.raises(ValidationError):
        make_recipe().model = None  # type: ignore[assignment, misc]
