"""Reading search spaces: TOML files, and those that come with autoq by their names."""

from __future__ import annotations

import os
import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from pydantic import ValidationError

from autoq.errors import SpaceError
from autoq.optimization.space.rules import SearchSpace
from autoq.validation import Complaint, did_you_mean, first_complaint, parse_toml, read_text


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
    if not is_path:
        known = shipped_spaces()
        if name in known:
            return parse_space((spaces_folder() / f"{name}.toml").read_text(encoding="utf-8"), name)
        if not path.is_file():
            near = did_you_mean(name, known)
            raise SpaceError(f"unknown search space {name!r}; give a .toml file or one of {', '.join(known)}.{near}")
    return parse_space(read_text(path, "search space", SpaceError), name)


def parse_space(text: str, name: str = "space") -> SearchSpace:
    r"""Parse a search space from TOML text; ``name`` is what messages call it.

    Raises:
        SpaceError: the text is not TOML, or a key or value is not one a space can have.

    >>> text = 'schema_version = 1\n[[rules]]\nscheme = "uniform"\nbits = [4, 8]'
    >>> parse_space(text).rules[0].choices
    {'scheme': ('uniform',), 'bits': (4, 8)}
    """
    document = parse_toml(text, f"search space {name!r}", SpaceError)
    if "name" in document:
        raise SpaceError(f"search space {name!r}: unknown key 'name'; a space is called after its file")
    try:
        return SearchSpace.model_validate(document | {"name": name})
    except ValidationError as error:
        complaint = _with_line(first_complaint(error, SearchSpace), text)
        raise SpaceError(f"search space {name!r}: {complaint}") from error


def _with_line(complaint: Complaint, text: str) -> str:
    """Name the rule or tie that is complained of, and its line: ``rule 3 (line 17): bits: expected …``."""
    match complaint.location:
        case ("rules" | "ties" as header, int(number), *_):
            tables = re.finditer(rf"(?m)^\s*\[\[\s*{header}\s*\]\]", text)
            lines = [text.count("\n", 0, table.end()) + 1 for table in tables]
            line = f" (line {lines[number]})" if number < len(lines) else ""
            return f"{header.removesuffix('s')} {number + 1}{line}: {complaint.below(2)}"
    return str(complaint)
