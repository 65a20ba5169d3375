"""The parts of the page put together: modules as one script, data as JSON that nothing in it can end."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

_IMPORT = re.compile(r'^import (?P<names>\{[^}]*\}) from "\./(?P<module>\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?P<kind>const|function|class) (?P<name>\w+)", re.MULTILINE)
_FIRST_MODULE = "page"


@cache
def read_part(name: str) -> str:
    """Read a file of the page by its path below this package."""
    return resources.files("autoq.report.page").joinpath(name).read_text(encoding="utf-8")


@cache
def assemble_script() -> str:
    """Join the modules into one script, each in a scope of its own, behind those that it imports.

    Raises:
        ValueError: two modules import each other.
    """
    texts: dict[str, str] = {}
    opened: list[str] = []

    def add(name: str) -> None:
        if name in opened:
            raise ValueError(f"modules of the page import each other: {' -> '.join([*opened, name])}")
        opened.append(name)
        text = read_part(f"script/{name}.js")
        for found in _IMPORT.finditer(text):
            if found["module"] not in texts:
                add(found["module"])
        opened.pop()
        texts[name] = _scoped(name, text)

    add(_FIRST_MODULE)
    return "\n".join(texts.values())


def _scoped(name: str, text: str) -> str:
    """Write a module as a function that runs at once and returns what the module exports."""
    exported = ", ".join(found["name"] for found in _EXPORT.finditer(text))
    body = _IMPORT.sub(lambda found: f"const {found['names']} = module_{found['module']};\n", text)
    body = _EXPORT.sub(lambda found: f"{found['kind']} {found['name']}", body)
    return f"const module_{name} = (() => {{\n{body}return {{ {exported} }};\n}})();"


def digest(text: str) -> str:
    """Return the SHA-256 of a text as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def embed_json(data: Mapping[str, Any]) -> str:
    """Write JSON that cannot end its ``<script>`` element, whatever names it has."""
    text = json.dumps(_finite(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _finite(value: Any) -> Any:
    """Return ``value`` with None in place of infinities and NaN, which JSON lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
