"""Map the class folders of a source to a model's classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from autoq.errors import DataError


def class_indices(class_names: Sequence[str], label_names: Sequence[str] | None, num_classes: int) -> tuple[int, ...]:
    """Map a source's classes to a model's outputs.

    By name where every class has the name of an output (without regard to case; a folder may hold some of the model's
    classes only), else by position where there are as many classes as outputs.

    Args:
        class_names: names of the source's classes, in order.
        label_names: names of the model's outputs, or None if it does not say.
        num_classes: number of the model's outputs.

    Returns:
        For each class of the source the index of the model's output.

    Raises:
        DataError: names do not match and counts differ.
    """
    outputs = [_fold(name) for name in label_names or ()]
    count_of = Counter(outputs)
    index_of = {name: index for index, name in enumerate(outputs) if count_of[name] == 1}
    unknown = [name for name in class_names if _fold(name) not in index_of]
    if not unknown:
        return tuple(index_of[_fold(name)] for name in class_names)
    if len(class_names) == num_classes:
        return tuple(range(num_classes))
    reason = f"the model has no class {unknown[0]!r}" if outputs else "the model does not name its classes"
    raise DataError(
        f"{len(class_names)} class folders cannot be matched to the model's {num_classes} classes: {reason}; "
        "name the folders as the model names its classes, or give one folder for each class"
    )


def _fold(name: str) -> str:
    return name.strip().casefold()
