"""The objects on the images of a source, as outputs of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from autoq.data import AnnotatedSource, Objects, check_headers, class_indices, open_source
from autoq.data.labels import ClassMapping
from autoq.errors import DataError
from autoq.models import LoadedModel
from autoq.models.label_names import alternative_names
from autoq.pixels import Content
from autoq.recipe import LabelsBy


@dataclass(frozen=True)
class MatchedObjects:
    """A source whose objects are labelled with outputs of a model.

    Attributes:
        source: of the images.
        mapping: which output each of its classes is, and how that was found.
        content: tells what an image of a height and width takes up of the model's input.
    """

    source: AnnotatedSource
    mapping: ClassMapping
    content: Callable[[tuple[int, int]], Content]

    @property
    def by(self) -> LabelsBy:
        """How outputs were found."""
        return self.mapping.by

    def between(self, start: int, stop: int) -> list[Objects]:
        """Return the objects on the images from ``start`` to before ``stop``, labelled with outputs.

        Raises:
            DataError: a mask cannot be decoded.
        """
        import numpy as np

        outputs = np.array(self.mapping.indices, dtype=np.int64)
        found = [self.source.objects(index) for index in range(start, stop)]
        return [replace(each, labels=outputs[each.labels], content=self.content(each.size)) for each in found]


def match_objects(
    name: str, loaded: LoadedModel, num_classes: int, required: bool, with_masks: bool = False
) -> MatchedObjects | None:
    """Open a source and match its categories with a model's outputs; return None if it has none and need not.

    Args:
        name: of the source.
        loaded: the model.
        num_classes: number of its outputs.
        required: whether to refuse images without boxes.
        with_masks: whether objects need masks.

    Raises:
        DataError: there are no such images, or a category is no output of the model, or a file is no image; the message
            names it.
    """
    source = open_source(name, "evaluation")
    if not isinstance(source, AnnotatedSource) or source.class_names is None or not source.has_objects:
        if required:
            raise DataError(f"images in {name!r} have no boxes: give coco:FILE.json with annotations, or shapes")
        return None
    if with_masks and not source.has_masks:
        if required:
            raise DataError(
                f"not all objects in {name!r} have masks: give each its 'segmentation', or use --task detection"
            )
        return None
    names = loaded.label_names
    mapping = class_indices(
        source.class_names, names, num_classes, lambda: alternative_names(names or ()), noun="category"
    )
    check_headers(source, range(len(source)))
    return MatchedObjects(source, mapping, loaded.content)
