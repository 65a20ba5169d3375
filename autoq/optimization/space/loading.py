"""Reading search spaces and targets: TOML files, and those that come with autoq by their names."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import ValidationError

from autoq.errors import AutoqError, SpaceError, TargetError
from autoq.optimization.space.rules import Document, SearchSpace
from autoq.optimization.space.targets import Target
from autoq.validation import Complaint, did_you_mean, first_complaint, parse_toml, read_text

DocumentT = TypeVar("DocumentT", bound=Document)


@dataclass(frozen=True)
class DocumentKind(Generic[DocumentT]):
    """Documents that users write and of which some come with autoq.

    They lie inside an installed package, and beside the package in a checkout of the repository.

    Attributes:
        noun: what messages call one.
        directory: with those that come with autoq.
        model: what a file is validated by; has a ``name``, which is not in the file.
        refusal: what is raised.
        tables: headers of its arrays of tables.
    """

    noun: str
    directory: str
    model: type[DocumentT]
    refusal: type[AutoqError]
    tables: tuple[str, ...]

    def folder(self) -> Traversable:
        """Return the folder with those that come with autoq.

        Raises:
            AutoqError: the installation lacks it.
        """
        package = resources.files("autoq")
        installed = package / self.directory
        if installed.is_dir():
            return installed
        checkout = Path(str(package)).parent / self.directory
        if not checkout.is_dir():
            raise self.refusal(f"{str(installed)!r}, the {self.noun}s of autoq, is missing: install autoq again")
        return checkout

    def shipped(self) -> list[str]:
        """List the names of those that come with autoq, in alphabetical order."""
        return sorted(
            file.name.removesuffix(".toml") for file in self.folder().iterdir() if file.name.endswith(".toml")
        )

    def load(self, name_or_path: str | os.PathLike[str]) -> DocumentT:
        """Read a TOML file, or one that comes with autoq by its name.

        Raises:
            AutoqError: there is no such file or name, it is not TOML, or a key or value is not one that it can have.
        """
        name = os.fspath(name_or_path)
        path = Path(name)
        is_path = isinstance(name_or_path, Path) or path.suffix == ".toml" or path.name != name
        if not is_path:
            known = self.shipped()
            if name in known:
                return self.parse((self.folder() / f"{name}.toml").read_text(encoding="utf-8"), name)
            if not path.is_file():
                near = did_you_mean(name, known)
                raise self.refusal(
                    f"unknown {self.noun} {name!r}; give a .toml file or one of {', '.join(known)}.{near}"
                )
        return self.parse(read_text(path, self.noun, self.refusal), name)

    def parse(self, text: str, name: str) -> DocumentT:
        """Parse TOML text; ``name`` is what messages call it.

        Raises:
            AutoqError: the text is not TOML, or a key or value is not one that it can have.
        """
        document = parse_toml(text, f"{self.noun} {name!r}", self.refusal)
        if "name" in document:
            raise self.refusal(f"{self.noun} {name!r}: unknown key 'name'; it is called after its file")
        try:
            return self.model.model_validate(document | {"name": name})
        except ValidationError as error:
            complaint = self._with_line(first_complaint(error, self.model), text)
            raise self.refusal(f"{self.noun} {name!r}: {complaint}") from error

    def _with_line(self, complaint: Complaint, text: str) -> str:
        """Name the rule or tie that is complained of, and its line: ``rule 3 (line 17): bits: expected …``."""
        match complaint.location:
            case (str(header), int(number), *_) if header in self.tables:
                tables = re.finditer(rf"(?m)^\s*\[\[\s*{header}\s*\]\]", text)
                lines = [text.count("\n", 0, table.end()) + 1 for table in tables]
                line = f" (line {lines[number]})" if number < len(lines) else ""
                return f"{header.removesuffix('s')} {number + 1}{line}: {complaint.below(2)}"
        return str(complaint)


SPACES = DocumentKind("search space", "search_spaces", SearchSpace, SpaceError, ("rules", "ties"))
TARGETS = DocumentKind("target", "targets", Target, TargetError, ("operations",))


def shipped_spaces() -> list[str]:
    """List the names of the spaces that come with autoq, in alphabetical order.

    >>> "vit_w2-8" in shipped_spaces()
    True
    """
    return SPACES.shipped()


def load_space(name_or_path: str | os.PathLike[str]) -> SearchSpace:
    """Read a search space: a TOML file, or the name of one that comes with autoq.

    Raises:
        SpaceError: there is no such file or name, it is not TOML, or a key or value is not one a space can have.

    >>> load_space("bits_only").rules[0].bits
    (2, 3, 4, 5, 6, 7, 8)
    """
    return SPACES.load(name_or_path)


def parse_space(text: str, name: str = "space") -> SearchSpace:
    r"""Parse a search space from TOML text; ``name`` is what messages call it.

    Raises:
        SpaceError: the text is not TOML, or a key or value is not one a space can have.

    >>> text = 'schema_version = 1\n[[rules]]\nscheme = "uniform"\nbits = [4, 8]'
    >>> parse_space(text).rules[0].choices
    {'scheme': ('uniform',), 'bits': (4, 8)}
    """
    return SPACES.parse(text, name)


def shipped_targets() -> list[str]:
    """List the names of the targets that come with autoq, in alphabetical order.

    >>> shipped_targets()
    ['any', 'fpga', 'int8-int4', 'onnxruntime-avx2']
    """
    return TARGETS.shipped()


def load_target(name_or_path: str | os.PathLike[str]) -> Target:
    """Read a hardware description: a TOML file, or the name of one that comes with autoq.

    Raises:
        TargetError: there is no such file or name, it is not TOML, or a key or value is not one a target can have.

    >>> load_target("int8-int4").operations[0].bits
    (4, 8)
    """
    return TARGETS.load(name_or_path)
