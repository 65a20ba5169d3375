"""Write the JSON Schemas of recipes, search spaces, targets, studies and latency tables into ``schemas/``, for editors.

python scripts/write_schemas.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from autoq.cost.latency import LatencyTable
from autoq.optimization.space.rules import SearchSpace
from autoq.optimization.space.targets import Target
from autoq.recipe import Recipe
from autoq.runs.search.settings import SearchSettings

FOLDER = Path(__file__).parents[1] / "schemas"
_ONE_OR_MANY = ("OperandRule", "Rule", "Tie")
"""Models whose lists may be written as one value."""
_NOT_WRITTEN = {SearchSpace: ("name",), Target: ("name",)}
"""Fields that a file does not have."""
MODELS: dict[str, type[BaseModel]] = {
    "recipe": Recipe,
    "search_space": SearchSpace,
    "target": Target,
    "study": SearchSettings,
    "latency_table": LatencyTable,
}


def make_schema(name: str) -> dict[str, Any]:
    """Return the schema of a kind of file, which may name it under ``$schema``."""
    model = MODELS[name]
    schema = model.model_json_schema()
    for field in _NOT_WRITTEN.get(model, ()):
        del schema["properties"][field]
    for definition in (schema["$defs"][key] for key in _ONE_OR_MANY if key in schema.get("$defs", {})):
        for field in definition["properties"].values():
            variants = field.get("anyOf", [field])
            single = [variant["items"] for variant in variants if variant.get("type") == "array"]
            field["anyOf"] = [*(field.pop("anyOf", None) or [dict(field)]), *single]
            field.pop("type", None), field.pop("items", None)
    schema["properties"] = {"$schema": {"type": "string"}, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"autoq {name}", **schema}


def text_of(name: str) -> str:
    """Return the content of a schema's file."""
    return json.dumps(make_schema(name), indent=2) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in MODELS:
        (FOLDER / f"{each}.schema.json").write_text(text_of(each), encoding="utf-8")
