"""Values that people have written, checked: what is wrong with them on one line, with the nearest right one."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
import tomllib
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from autoq.errors import AutoqError

if TYPE_CHECKING:  # loading it takes longer than all of `autoq --help`
    from pydantic import ValidationError

ModelT = TypeVar("ModelT")
_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
"""What pydantic calls it, in models and in dataclasses."""
_LONGEST_SHOWN = 80
"""Characters of a wrong value beyond which a message leaves it out: whole tables."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` with the nearest of ``known``, or an empty string when nothing is near.

    >>> did_you_mean("adalgo", ["uniform", "adalog"])
    " Did you mean 'adalog'?"
    >>> did_you_mean("adalgo", ["uniform"])
    ''
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_decodable(name: str | os.PathLike[str], what: str, refusal: type[AutoqError]) -> None:
    """Refuse a name or path that is not text: records, pages and recipes that name it could not be read back.

    Args:
        name: as the operating system gave it; bytes that cannot be decoded are surrogates in it.
        what: kind of thing, for the message: ``model``.
        refusal: what is raised.

    Raises:
        AutoqError: of class ``refusal``.
    """
    text = os.fspath(name)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = text.encode("utf-8", "backslashreplace").decode().replace("\\udc", "\\x")
        raise refusal(
            f"{what} '{shown}' is not named in UTF-8: rename it, or, if its name looks right, set LC_ALL=C.UTF-8"
        ) from error


def power_of_two(value: int) -> int:
    """Return a whole number that is a power of two.

    Raises:
        ValueError: it is not.
    """
    if value < 1 or value & (value - 1):
        raise ValueError(f"expected a power of two, such as 128, got {value!r}")
    return value


def printable(text: str) -> str:
    r"""Return a text on one line: what cannot be printed as it is written in Python.

    >>> printable("a\nb")
    'a\\nb'
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


@dataclass(frozen=True)
class Complaint:
    """What is wrong with one value of a document.

    Attributes:
        location: keys and indices that lead to the value.
        message: what is wrong with it, without its location.
        is_unknown_key: whether the last key of ``location`` is one that does not exist.
    """

    location: tuple[int | str, ...]
    message: str
    is_unknown_key: bool = False

    def __str__(self) -> str:
        """Join location and message."""
        where = printable(".".join(map(str, self.location)))
        if self.is_unknown_key:
            return f"unknown key {where!r}.{self.message}"
        return f"{where}: {self.message}" if where else self.message

    def below(self, depth: int) -> Complaint:
        """Return the same complaint as seen from ``depth`` keys further in."""
        return dataclasses.replace(self, location=self.location[depth:])


def first_complaint(error: ValidationError, kind: Any) -> Complaint:
    """Describe the most helpful complaint of a pydantic error.

    Args:
        error: of validating ``kind``.
        kind: a pydantic model or a dataclass; its fields are searched for the key that an unknown one may stand for.
    """
    # A mistyped key also leaves one missing; the typo is what helps.
    first = min(error.errors(), key=lambda complaint: complaint["type"] not in _UNKNOWN_KEY)
    location, context = first["loc"], first.get("ctx", {})
    if first["type"] in _UNKNOWN_KEY:
        return Complaint(location, did_you_mean(str(location[-1]), _keys_beside(kind, location)), is_unknown_key=True)
    if first["type"] == "missing":
        return Complaint(location[:-1], f"{location[-1]} is missing")
    message = _reworded(first["type"], context, first["msg"])
    given = repr(first["input"])
    if first["type"] != "json_invalid" and given not in message and len(given) <= _LONGEST_SHOWN:
        message += f" (got {given})"
    if first["type"] == "literal_error" and isinstance(first["input"], str):
        near = did_you_mean(first["input"], re.findall(r"'([^']*)'", context["expected"]))
        message += f".{near}" if near else ""
    return Complaint(location, message)


_LIMITS = {
    "greater_than_equal": "give {ge} or more",
    "greater_than": "give more than {gt:g}",
    "less_than_equal": "give {le} or less",
    "less_than": "give less than {lt:g}",
}
"""What to do about a number that is out of its range, by pydantic's name of the complaint."""


def _reworded(kind: str, context: Mapping[str, Any], message: str) -> str:
    """Say what would be right in place of what pydantic says."""
    if kind == "value_error":
        return str(context["error"])
    if kind in _LIMITS:
        return _LIMITS[kind].format(**context)
    return message.replace("Input should be", "give", 1)


def option_name(key: str) -> str:
    """Return the option of the command line that a setting stands for.

    >>> option_name("time_limit_seconds"), option_name("calib_images")
    ('--time-limit', '--calib-images')
    """
    return "--" + _TYPED.get(key, key).removesuffix("_seconds").replace("_", "-")


_TYPED = {"task_options": "task_option"}
"""Settings whose option is called otherwise: it is repeated, once for each of them."""


def validate(
    kind: type[ModelT], values: object, where: str, refusal: type[AutoqError], *, are_options: bool = False
) -> ModelT:
    """Validate plain data as a pydantic model or a dataclass.

    Args:
        kind: the model.
        values: what a file or a caller gave.
        where: what messages call it: ``recipe 'a.json'``.
        refusal: what is raised.
        are_options: whether the keys are options of the command line, which messages then name as they are typed.

    Raises:
        AutoqError: of class ``refusal``; names the first wrong key or value, and what would be right.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        complaint = first_complaint(error, kind)
        if are_options and complaint.location and not complaint.is_unknown_key:
            raise refusal(f"{option_name(str(complaint.location[0]))}: {complaint.message}") from error
        raise refusal(f"{where}: {complaint}") from error


def read_text(
    path: str | os.PathLike[str],
    what: str,
    refusal: type[AutoqError],
    not_found: type[AutoqError] | None = None,
) -> str:
    """Read a text file that a person has named.

    Args:
        path: the file.
        what: kind of file, for messages: ``recipe``.
        refusal: what is raised.
        not_found: what is raised where there is no such file, if that is something else.

    Raises:
        AutoqError: of class ``refusal`` or ``not_found``; the file cannot be read, or is not UTF-8.
    """
    check_decodable(path, what, refusal)
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # editors of Windows begin with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8: save it as UTF-8"
        kind = not_found if not_found is not None and isinstance(error, FileNotFoundError) else refusal
        raise kind(f"cannot read {what} {os.fspath(path)!r}: {reason}") from error


def number_or_text(text: str) -> float | str:
    """Read a text as the number that it is, whole or not, or leave it as it is.

    >>> number_or_text("8"), number_or_text("0.5"), number_or_text("uniform")
    (8, 0.5, 'uniform')
    """
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_json(text: str, where: str, refusal: type[AutoqError]) -> Any:
    """Parse JSON; ``where`` is what messages call it. A ``$schema``, which editors read, is left out.

    Raises:
        AutoqError: of class ``refusal``; the text is not JSON.
    """
    try:
        return _without_schema(json.loads(text))
    except ValueError as error:
        raise refusal(f"{where} is not JSON: {error}") from error


def parse_toml(text: str, where: str, refusal: type[AutoqError]) -> dict[str, Any]:
    """Parse TOML; ``where`` is what messages call it. A ``$schema``, which editors read, is left out.

    Raises:
        AutoqError: of class ``refusal``; the text is not TOML.
    """
    try:
        document: dict[str, Any] = _without_schema(tomllib.loads(text))
        return document
    except tomllib.TOMLDecodeError as error:
        raise refusal(f"{where} is not TOML: {error}") from error


def _without_schema(document: Any) -> Any:
    return (
        {key: value for key, value in document.items() if key != "$schema"} if isinstance(document, dict) else document
    )


def _keys_beside(kind: Any, location: tuple[int | str, ...]) -> set[str]:
    """Return the keys that a document of ``kind`` may have where ``location`` points."""
    models: Collection[Any] = _models_in(kind)
    for part in location[:-1]:
        found = [fields[str(part)] for model in models if str(part) in (fields := _fields(model))]
        if found:  # else it is a key of a mapping, an index, or a tag of a union
            models = {model for annotation in found for model in _models_in(annotation)}
    return {name for model in models for name in _fields(model)}


def _models_in(annotation: Any) -> set[Any]:
    """Return the models that a value annotated so is or holds."""
    if _fields(annotation):
        return {annotation}
    return {model for argument in typing.get_args(annotation) for model in _models_in(argument)}


def _fields(kind: Any) -> Mapping[str, Any]:
    """Return the annotations of a model's fields by name; none of what is no model."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return {name: field.annotation for name, field in getattr(kind, "model_fields", {}).items()}
