"""Recipes of a run, small enough for thousands in a page, from which their files are put together to the letter.

Recipes of one search differ in the options of operands and in some numbers. What they share is a *form*: the text
of the file with places for these. A recipe is the number of its form, one letter an operand for its option, and numbers
that the page has as columns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autoq.recipe import OperandConfig
from autoq.report.points import Point

_FIRST_OPTION = 48
"""Code of the letter of an operand's first option."""
_PLACE = re.compile(r'"\\u0000([^"]*)"')
"""A place in the JSON text of a form: a string that no recipe has."""


class RecipeEncoder:
    """Collects what the recipes of a run share.

    Attributes:
        forms: text of each form, cut at its places: text, name of a column (or ``sites``), text, ...; and the
            operands, by number, that its recipes quantize.
        operands: site and name by number.
        columns: further columns that forms name, by point.
    """

    def __init__(self, columns: Mapping[str, Sequence[str]]) -> None:
        """Start with the columns that the page has, numbers as JSON, one a point."""
        self._known = columns
        self._count = len(next(iter(columns.values()), ()))
        self.columns: dict[str, list[str]] = {}
        self._forms: dict[str, int] = {}
        self.forms: list[dict[str, Any]] = []
        self._operands: dict[tuple[str, str], int] = {}
        self._options: list[dict[str, int]] = []
        self._sites: dict[int, tuple[tuple[int, ...], str]] = {}

    def add(self, index: int, point: Point) -> tuple[int, str]:
        """Return the form of a point's recipe and the letters of its options; −1 and nothing without a recipe."""
        if point.recipe is None:
            return -1, ""
        operands: list[int] = []
        letters: list[str] = []
        for site, configs in point.recipe["sites"].items():
            if id(configs) not in self._sites:  # recipes share these objects
                self._sites[id(configs)] = self._encode_site(site, configs)
            numbers, text = self._sites[id(configs)]
            operands += numbers
            letters.append(text)
        shared = {key: value for key, value in point.recipe.items() if key != "sites"}
        for record in ("cost", "score"):
            if record in shared:
                shared[record] = {
                    key: self._place(index, key, value) if record == "cost" or isinstance(value, float) else value
                    for key, value in shared[record].items()
                }
        return self._form(list(point.recipe), shared, operands), "".join(letters)

    def _encode_site(self, site: str, configs: Mapping[str, Any]) -> tuple[tuple[int, ...], str]:
        numbers, letters = [], []
        for name, config in configs.items():
            number = self._operands.setdefault((site, name), len(self._operands))
            if number == len(self._options):
                self._options.append({})
            option = self._options[number].setdefault(json.dumps(config), len(self._options[number]))
            numbers.append(number)
            letters.append(chr(_FIRST_OPTION + option))
        return tuple(numbers), "".join(letters)

    def _place(self, index: int, name: str, value: float) -> str:
        """Return a place for a number of a record: the column that has it, or a further one."""
        literal = json.dumps(value)
        if name in self._known and self._known[name][index] == literal:
            return f"\0{name}"
        self.columns.setdefault(f"recipe.{name}", [""] * self._count)[index] = literal
        return f"\0recipe.{name}"

    def _form(self, keys: Iterable[str], shared: Mapping[str, Any], operands: list[int]) -> int:
        lines = [f"  {json.dumps(key)}: {json.dumps(shared.get(key, chr(0) + 'sites'))}" for key in keys]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        key = f"{text}{operands}"
        if key not in self._forms:
            self._forms[key] = len(self.forms)
            self.forms.append({"parts": _PLACE.split(text), "operands": operands})
        return self._forms[key]

    @property
    def operands(self) -> list[tuple[str, str]]:
        """Site and name of each operand, by number."""
        return list(self._operands)

    @property
    def options(self) -> list[list[tuple[str, str]]]:
        """The options of each operand, by number: the JSON text, and the base of its logarithm in words, if any."""
        return [[(text, _log_base(text)) for text in options] for options in self._options]


def _log_base(text: str) -> str:
    from autoq.quantizers import quantizer_class

    config = OperandConfig.model_validate_json(text)
    return quantizer_class(config.scheme).label(config).log_base or ""
