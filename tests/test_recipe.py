"""Recipe files: what is written, what is read back, and what is said about the ones that are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from autoq.errors import RecipeError
from autoq.recipe import (
    CalibrationReference,
    CostRecord,
    ModelReference,
    OperandConfig,
    Recipe,
    ReconstructionReference,
    ScoreRecord,
    hash_sites,
)

WEIGHT = OperandConfig(scheme="uniform", bits=4, granularity="channel")
GROUPS = OperandConfig(scheme="instance_groups", bits=3, groups=8)
LOG = OperandConfig(scheme="adalog", bits=4, log_base_numerator=31, overflow="extra_zero")


def make_recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": ModelReference(name="local-dir:models/mine", weights_sha256="ab" * 32),
        "sites": {
            "blocks.0.attn.qkv": {"input": GROUPS, "weight": WEIGHT},
            "blocks.0.attn.av": {"lhs": LOG},
        },
        "calibration": CalibrationReference(
            data="digits", images=128, seed=3, observer="mse", bank_fingerprint="0123456789abcdef"
        ),
        "cost": CostRecord(
            bops=1_930_000_000, group_bops=41_000_000, weight_layers_only_bops=1, weight_bytes=1_400_000
        ),
        "score": ScoreRecord(kl_nats=0.1 + 0.2, agreement_percent=96.1, sqnr_db=17.25, images=128),
    }
    return Recipe(**(values | changes))


def saved(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def complaint(path: Path) -> str:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(str(path)) in message
    return message


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
    assert len({recipe.content_hash for recipe in (make_recipe(), rescaled, *rotated)}) == 4
    rotated[0].save(tmp_path / "a.json")
    assert Recipe.load(tmp_path / "a.json") == rotated[0]
    assert '"rotated": {"embed": 0}' in (tmp_path / "a.json").read_text()


RECONSTRUCTED = ReconstructionReference(
    file="recipe.safetensors", sha256="cd" * 32, data="digits", images=64, seed=1, iterations=200, importance="aph"
)


def test_reconstructed_weights_are_part_of_the_content() -> None:
    recipe = make_recipe()
    first, other = (
        make_recipe(reconstruction=RECONSTRUCTED.model_copy(update={"sha256": value * 32})) for value in ("cd", "ef")
    )
    assert len({recipe.content_hash, first.content_hash, other.content_hash}) == 3
    more = make_recipe(reconstruction=RECONSTRUCTED.model_copy(update={"iterations": 3}))
    assert more.content_hash == first.content_hash, "that is a record"


def test_a_reconstruction_is_written_where_there_is_one(tmp_path: Path) -> None:
    assert "reconstruction" not in make_recipe().to_json()
    make_recipe(reconstruction=RECONSTRUCTED).save(tmp_path / "a.json")
    assert Recipe.load(tmp_path / "a.json") == make_recipe(reconstruction=RECONSTRUCTED)
    written = json.loads((tmp_path / "a.json").read_text())["reconstruction"]
    assert written.keys() == {"file", "sha256", "data", "images", "seed", "iterations", "importance"}
    some = RECONSTRUCTED.model_copy(update={"settings": {"batch": 8}, "blocks": ("blocks.0", "head")})
    make_recipe(reconstruction=some).save(tmp_path / "b.json")
    assert Recipe.load(tmp_path / "b.json").reconstruction == some


def test_complaints_about_a_reconstruction(tmp_path: Path) -> None:
    wrong = make_recipe(reconstruction=RECONSTRUCTED).to_json()
    wrong["reconstruction"]["iteration"] = wrong["reconstruction"].pop("iterations")
    message = complaint(saved(tmp_path, wrong))
    assert "unknown key 'reconstruction.iteration'. Did you mean 'iterations'?" in message
    wrong = make_recipe(reconstruction=RECONSTRUCTED).to_json()
    wrong["reconstruction"]["file"] = "../weights.safetensors"
    message = complaint(saved(tmp_path, wrong))
    assert "reconstruction.file: " in message
    assert "(got '../weights.safetensors')" in message


def test_hash_does_not_change_between_versions() -> None:
    """Stored trials are recognised by it."""
    sites = {"head": {"weight": WEIGHT, "input": OperandConfig(scheme="uniform", bits=8)}}
    assert hash_sites(sites) == "a2c653b5a8a22c6d486f7143514067ffeab7a24b453230ca234e056556dd86fe"


def document() -> dict[str, Any]:
    return make_recipe().to_json()


def test_unknown_keys_are_named_with_the_nearest(tmp_path: Path) -> None:
    wrong = document()
    wrong["sites"]["blocks.0.attn.av"]["lhs"] = {"scheme": "adalog", "bitz": 4}
    message = complaint(saved(tmp_path, wrong))
    assert "unknown key 'sites.blocks.0.attn.av.lhs.bitz'. Did you mean 'bits'?" in message

    assert "unknown key 'site'. Did you mean 'sites'?" in complaint(saved(tmp_path, document() | {"site": {}}))

    wrong = document()
    wrong["calibration"]["image"] = 3
    assert "unknown key 'calibration.image'. Did you mean 'images'?" in complaint(saved(tmp_path, wrong))


@pytest.mark.parametrize("bits", [0, 17, -1, "four", None])
def test_bits_out_of_range(tmp_path: Path, bits: Any) -> None:
    wrong = document()
    wrong["sites"]["blocks.0.attn.av"]["lhs"]["bits"] = bits
    message = complaint(saved(tmp_path, wrong))
    assert "sites.blocks.0.attn.av.lhs.bits" in message
    assert f"(got {bits!r})" in message


@pytest.mark.parametrize(
    ("field", "value"), [("groups", 0), ("log_base_numerator", 9), ("granularity", "row"), ("overflow", "clip")]
)
def test_other_values_out_of_range(tmp_path: Path, field: str, value: Any) -> None:
    wrong = document()
    wrong["sites"]["blocks.0.attn.av"]["lhs"][field] = value
    assert f"lhs.{field}" in complaint(saved(tmp_path, wrong))


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


def test_a_score_has_the_keys_of_its_task(tmp_path: Path) -> None:
    score = ScoreRecord(kl_nats=0.1, agreement_percent=96.0, sqnr_db=17.0, output_mse=0.5, images=128)
    classified = make_recipe(score=score.with_metrics({"top1_percent": 90.0, "top5_percent": 99.0}, 540))
    classified.save(tmp_path / "classification.json")
    written = json.loads((tmp_path / "classification.json").read_text(encoding="utf-8"))
    assert list(written["score"]) == [
        *("kl_nats", "agreement_percent", "sqnr_db", "logit_mse", "images"),
        *("top1_percent", "top5_percent", "labelled_images"),
    ]
    assert "task" not in written
    read = Recipe.load(tmp_path / "classification.json").score
    assert read == classified.score
    assert read is not None
    assert read.metrics == {"top1_percent": 90.0, "top5_percent": 99.0}
    assert read.without_metrics() == score

    dense = score.model_copy(update={"agreement_percent": None}).with_metrics({"rmse": 0.25}, 6)
    document = make_recipe(score=dense, task={"name": "dense", "variance": 2.0}).to_json()
    assert document["task"] == {"name": "dense", "variance": 2.0}
    assert list(document["score"]) == ["kl_nats", "sqnr_db", "output_mse", "images", "rmse", "labelled_images"]


def test_metrics_of_a_score_are_numbers() -> None:
    read = ScoreRecord.model_validate({"kl_nats": 0.1, "sqnr_db": 9.0, "images": 8, "top1_percent": None})
    assert read.metrics == {}
    with pytest.raises(ValueError, match="should be a valid number"):
        ScoreRecord.model_validate({"kl_nats": 0.1, "sqnr_db": 9.0, "images": 8, "top1_percent": "many"})
