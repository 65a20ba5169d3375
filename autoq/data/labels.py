"""Map the class folders of a source to a model's classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from autoq.errors import DataError
from autoq.recipe import LabelsBy
from autoq.validation import did_you_mean

_MOST_LISTED = 5


@dataclass(frozen=True)
class ClassMapping:
    """Which of a model's outputs each class of a source is.

    Attributes:
        indices: of outputs, one for each class.
        by: how they were found.
    """

    indices: tuple[int, ...]
    by: LabelsBy


def class_indices(
    class_names: Sequence[str],
    label_names: Sequence[str] | None,
    num_classes: int,
    alternatives: Callable[[], Sequence[Sequence[str]]] = tuple,
    noun: str = "class folder",
) -> ClassMapping:
    """Map a source's classes to a model's outputs: by name, else by index; by order where nothing says otherwise.

    Names are compared without regard to case, and underscores count as spaces. A folder may hold some of the model's
    classes only.

    Args:
        class_names: names of the source's classes, in natural order.
        label_names: names of the model's outputs, or None if it does not say.
        num_classes: number of the model's outputs.
        alternatives: gives other names of each output; called if a class has none of ``label_names``.
        noun: what messages call a class of the source.

    Raises:
        DataError: a class is no output of the model; the message names it.

    >>> class_indices(["dog", "cat"], ("cat", "bird", "dog"), 3)
    ClassMapping(indices=(2, 0), by='name')
    >>> class_indices(["0", "7"], None, 10)
    ClassMapping(indices=(0, 7), by='index')
    """
    named = _by_name(class_names, label_names or ())
    if label_names and None in named:
        known = [(first, *others) for first, others in zip(label_names, alternatives(), strict=False)] or None
        named = named if known is None else _by_any_name(class_names, known)
    if label_names and (found := tuple(index for index in named if index is not None)) and len(found) == len(named):
        return ClassMapping(found, "name")
    numbers = _numbers(class_names)
    if numbers is not None and max(numbers) < num_classes:
        return ClassMapping(numbers, "index")
    counts_from_one = numbers == tuple(range(1, num_classes + 1))
    if not label_names and len(class_names) == num_classes and (numbers is None or counts_from_one):
        return ClassMapping(tuple(range(num_classes)), "order")
    raise _no_class(class_names, named, label_names, num_classes, numbers, noun)


def _by_name(class_names: Sequence[str], label_names: Sequence[str]) -> list[int | None]:
    return _by_any_name(class_names, [(name,) for name in label_names])


def _by_any_name(class_names: Sequence[str], names: Sequence[Sequence[str]]) -> list[int | None]:
    """Return the index of the one output that has the name of a class, for each class; None where there is none."""
    folded = [{_fold(name) for name in own} for own in names]
    count_of = Counter(name for own in folded for name in own)
    index_of = {name: index for index, own in enumerate(folded) for name in own if count_of[name] == 1}
    return [index_of.get(_fold(name)) for name in class_names]


def _numbers(class_names: Sequence[str]) -> tuple[int, ...] | None:
    """Return the numbers that the names are, if they are different numbers."""
    if not all(name.isascii() and name.isdecimal() for name in class_names):
        return None
    numbers = tuple(int(name) for name in class_names)
    return numbers if len(set(numbers)) == len(numbers) else None


def _no_class(
    class_names: Sequence[str],
    named: Sequence[int | None],
    label_names: Sequence[str] | None,
    num_classes: int,
    numbers: tuple[int, ...] | None,
    noun: str,
) -> DataError:
    """Say which class is no output of the model."""
    if label_names:
        name = next(name for name, index in zip(class_names, named, strict=True) if index is None)
        same = sum(_fold(name) == _fold(label) for label in label_names)
        reason = f"{same} outputs of the model are called so" if same > 1 else "the model has no class of that name"
        listed = ", ".join(label_names[:_MOST_LISTED]) + (", ..." if len(label_names) > _MOST_LISTED else "")
        remedy = f"name each {noun.split()[-1]} after its class ({listed}) or its index (0 to {num_classes - 1})"
        return DataError(f"{noun} {name!r}: {reason}; {remedy}.{did_you_mean(name, label_names)}")
    plural = {"category": "categories"}.get(noun, f"{noun}s")
    if numbers is not None:
        name = class_names[numbers.index(max(numbers))]
        reason = f"the model has outputs 0 to {num_classes - 1}"
    else:
        name, reason = class_names[0], f"the model has {num_classes} outputs without names"
    return DataError(
        f"{len(class_names)} {plural}, such as {name!r}, cannot be matched with outputs: {reason}; "
        f"name each {noun.split()[-1]} after the index of its output (0 to {num_classes - 1})."
    )


def _fold(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
