"""The published JSON Schemas: those of the models, fulfilled by the files that there are."""

from __future__ import annotations

import json
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema import ValidationError as SchemaError

from autoq.optimization.space import load_space
from autoq.recipe import Recipe
from autoq.runs.search.settings import load_study_file
from tests.recipe.recipes import make_recipe

ROOT = Path(__file__).parents[1]
KINDS = ("recipe", "search_space", "target", "study", "latency_table")
SPACES, STUDIES = sorted(ROOT.glob("search_spaces/*.toml")), sorted(ROOT.glob("studies/*.toml"))


def validator(kind: str) -> Draft202012Validator:
    schema = json.loads((ROOT / "schemas" / f"{kind}.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def document(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_are_those_of_the_models(kind: str) -> None:
    text = runpy.run_path(str(ROOT / "scripts" / "write_schemas.py"))["text_of"](kind)
    published = (ROOT / "schemas" / f"{kind}.schema.json").read_text(encoding="utf-8")
    assert published == text, "run python scripts/write_schemas.py"


@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_shipped_spaces_fulfil_theirs(path: Path) -> None:
    validator("search_space").validate(document(path))


@pytest.mark.parametrize("path", sorted(ROOT.glob("targets/*.toml")), ids=lambda path: path.stem)
def test_shipped_targets_fulfil_theirs(path: Path) -> None:
    validator("target").validate(document(path))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_fulfil_theirs(path: Path) -> None:
    validator("study").validate(document(path))


def test_recipes_fulfil_theirs() -> None:
    validator("recipe").validate(make_recipe().to_json())


def test_typos_are_found() -> None:
    for kind, wrong in (
        ("recipe", make_recipe().to_json() | {"site": {}}),
        ("search_space", document(SPACES[0]) | {"rule": []}),
        ("study", document(STUDIES[0]) | {"trails": 3}),
    ):
        with pytest.raises(SchemaError, match="unexpected"):
            validator(kind).validate(wrong)


def test_files_may_name_their_schema(tmp_path: Path) -> None:
    named = {"$schema": "schemas/recipe.schema.json"} | make_recipe().to_json()
    validator("recipe").validate(named)
    (tmp_path / "recipe.json").write_text(json.dumps(named))
    assert Recipe.load(tmp_path / "recipe.json") == make_recipe()
    line = '"$schema" = "schemas/x.schema.json"\n'
    (tmp_path / "space.toml").write_text(line + SPACES[0].read_text(encoding="utf-8"))
    assert load_space(str(tmp_path / "space.toml")).rules == load_space(SPACES[0].stem).rules
    (tmp_path / "study.toml").write_text(line + STUDIES[0].read_text(encoding="utf-8"))
    assert load_study_file(tmp_path / "study.toml") == document(STUDIES[0])
