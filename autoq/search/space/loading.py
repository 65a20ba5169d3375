"""Reading search spaces: TOML files, and those that come with autoq by their names."""

from __future__ import annotations

import os
import re
import tomllib
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import ValidationError

from autoq.errors import SpaceError
from autoq.files import did_you_mean
from autoq.search.space.rules import Rule, SearchSpace, Tie


def spaces_folder() -> Traversable:
    """Return the folder with the search spaces that come with autoq.

    It lies inside an installed package, and beside the package in a checkout of the repository.

    Raises:
        SpaceError: the installation lacks it.
    """
    package = resources.files("autoq")
    installed = package / "search_spaces"
    if installed.is_dir():
        return installed
    checkout = Path(str(package)).parent / "search_spaces"
    if not checkout.is_dir():
        raise SpaceError(f"{str(installed)!r}, the search spaces of autoq, is missing: install autoq again")
    return checkout


def shipped_spaces() -> list[str]:
    """List the names of the spaces that come with autoq, in alphabetical order.

    >>> "vit_w2-8" in shipped_spaces()
    True
    """
    return sorted(file.name.removesuffix(".toml") for file in spaces_folder().iterdir() if file.name.endswith(".toml"))


def load_space(name_or_path: str | os.PathLike[str]) -> SearchSpace:
    """Read a search space: a TOML file, or the name of one that comes with autoq.

    Raises:
        SpaceError: there is no such file or name, it is not TOML, or a key or value is not one a space can have.

    >>> load_space("bits_only").rules[0].bits
    (2, 3, 4, 5, 6, 7, 8)
    """
    name = os.fspath(name_or_path)
    path = Path(name)
    is_path = isinstance(name_or_path, Path) or path.suffix == ".toml" or path.name != name
    source: Traversable = path
    if not is_path:
        known = shipped_spaces()
        if name in known:
            source = spaces_folder() / f"{name}.toml"
        elif not path.is_file():
            near = did_you_mean(name, known)
            raise SpaceError(f"unknown search space {name!r}; give a .toml file or one of {', '.join(known)}.{near}")
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SpaceError(f"cannot read search space {name!r}: {reason}") from error
    return parse_space(text, name)


def parse_space(text: str, name: str = "space") -> SearchSpace:
    r"""Parse a search space from TOML text; ``name`` is what messages call it.

    Raises:
        SpaceError: the text is not TOML, or a key or value is not one a space can have.

    >>> text = 'schema_version = 1\n[[rules]]\nscheme = "uniform"\nbits = [4, 8]'
    >>> parse_space(text).rules[0].choices
    {'scheme': ('uniform',), 'bits': (4, 8)}
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpaceError(f"search space {name!r} is not TOML: {error}") from error
    if "name" in document:
        raise SpaceError(f"search space {name!r}: unknown key 'name'; a space is called after its file")
    try:
        return SearchSpace.model_validate(document | {"name": name})
    except ValidationError as error:
        raise SpaceError(f"search space {name!r}: {_describe(error, text)}") from error


def _describe(error: ValidationError, text: str) -> str:
    """Write the first complaint on one line, with its place: ``rule 3 (line 17): bits: expected …``."""
    # A mistyped key may also leave one missing; the typo is what helps.
    first = min(error.errors(), key=lambda complaint: complaint["type"] != "extra_forbidden")
    place, keys, model = "", list(first["loc"]), SearchSpace.model_fields.keys()
    if len(keys) > 1 and keys[0] in ("rules", "ties") and isinstance(keys[1], int):
        header, number = str(keys[0]), keys[1]
        lines = [
            text.count("\n", 0, found.end()) + 1 for found in re.finditer(rf"(?m)^\s*\[\[\s*{header}\s*\]\]", text)
        ]
        line = f" (line {lines[number]})" if number < len(lines) else ""
        place = f"{header.removesuffix('s')} {number + 1}{line}: "
        keys, model = keys[2:], (Rule if header == "rules" else Tie).model_fields.keys()
    key = str(keys[0]) if keys else ""
    if first["type"] == "extra_forbidden":
        return f"{place}unknown key {key!r}.{did_you_mean(key, set(model) - {'name'})}"
    if first["type"] == "missing":
        return f"{place}{key} is missing"
    message = (
        str(first["ctx"]["error"]) if first["type"] == "value_error" else f"{first['msg']}, got {first['input']!r}"
    )
    return place + (f"{key}: " if key else "") + message
