"""The labels of a source as outputs of a model."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from autoq.data import BaseFileSource, ImageSource, Role, check_headers, class_indices, open_source, shared_images
from autoq.data.given import IN_MEMORY
from autoq.errors import DataError
from autoq.models import LoadedModel
from autoq.models.label_names import alternative_names
from autoq.python_names import is_python_name
from autoq.recipe import LabelsBy

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MatchedLabels:
    """Which images of a source are labelled, and with which output of the model.

    Attributes:
        indices: of the labelled images.
        outputs: of the model, one for each of them.
        by: how classes were matched with outputs.
    """

    indices: list[int]
    outputs: list[int]
    by: LabelsBy


def match_labels(source: ImageSource, loaded: LoadedModel, num_classes: int) -> MatchedLabels:
    """Match the classes of a source with a model's outputs, and check its labelled images; none is decoded.

    Images that are not counted, and classes without images, are told of in a warning.

    Args:
        source: of labelled images.
        loaded: the model.
        num_classes: number of its outputs.

    Raises:
        DataError: there are no labels, a class is no output of the model, or a file is no image.
    """
    if source.class_names is None:
        raise DataError(f"images in {source.name!r} have no labels: put each class into a folder named after it")
    label_names = loaded.label_names
    empty = source.empty_classes if isinstance(source, BaseFileSource) else ()
    if empty and not label_names and not all(name.isdecimal() for name in source.class_names):
        raise DataError(
            f"class folder {empty[0]!r} of {source.name!r} has no image, which leaves open what output each folder is: "
            "fill it or remove it, or name each folder after the index of its output"
        )
    mapping = class_indices(source.class_names, label_names, num_classes, lambda: alternative_names(label_names or ()))
    if empty:
        _logger.warning("%s has no images of %s: accuracy is measured without them", source.name, ", ".join(empty))
    labels = ((index, source.label(index)) for index in range(len(source)))
    known = [(index, mapping.indices[label]) for index, label in labels if label is not None]
    if len(known) < len(source):
        left = len(source) - len(known)
        _logger.warning("%s: %d of %d images lie in no class folder: not counted", source.name, left, len(source))
    indices = [index for index, _ in known]
    check_headers(source, indices)
    return MatchedLabels(indices, [output for _, output in known], mapping.by)


def check_named(*named: tuple[object, Role]) -> None:
    """Refuse data that cannot be opened, before anything takes time; images given as objects pass.

    Args:
        named: data, by name or as in ``GivenImages`` or None, and what it is for.

    Raises:
        DataError: there are no such images.
    """
    for data, role in named:
        if isinstance(data, str) and not data.startswith(IN_MEMORY) and not is_python_name(data):
            open_source(data, role)


def warn_of_shared_images(data: object, eval_data: object) -> None:
    """Say in a warning if labelled images are among those that quantizers are learned from.

    Args:
        data: by name, or as in ``GivenImages``; objects are compared by identity alone.
        eval_data: likewise; None: there are no labelled images.

    Raises:
        DataError: there are no such images.
    """
    if eval_data is None:
        return
    if not isinstance(data, str) or not isinstance(eval_data, str):
        if data is eval_data:
            _logger.warning("accuracy is measured on the images that calibrate: give others as eval_data")
        return
    if is_python_name(data) or is_python_name(eval_data):
        shared, total = (1, 1) if data == eval_data else (0, 1)
    else:
        labelled = open_source(eval_data, "evaluation")
        shared, total = shared_images(labelled, open_source(data, "calibration")), len(labelled)
    if shared:
        which = "all" if shared == total else f"{shared} of {total}"
        _logger.warning(
            "%s images of --eval-data %s are in --data %s, which quantizers are learned from: accuracy is too high",
            *(which, eval_data, data),
        )
