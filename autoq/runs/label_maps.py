"""The classes of the pixels of a source, as outputs of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autoq.data import (
    UNLABELLED,
    AnnotatedSource,
    ImageSource,
    LabelMap,
    MapSource,
    check_headers,
    class_indices,
    map_of_objects,
    open_source,
)
from autoq.errors import DataError
from autoq.models import LoadedModel
from autoq.models.label_names import alternative_names
from autoq.pixels import Content
from autoq.recipe import LabelsBy

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class MatchedMaps:
    """A source whose pixels are labelled with outputs of a model.

    Attributes:
        source: of the images.
        outputs: of the model, one for each class of the source; None where its labels are outputs.
        by: how they were found.
        num_classes: number of the model's outputs.
        content: tells what an image of a height and width takes up of the model's input.
    """

    source: ImageSource
    outputs: tuple[int, ...] | None
    by: LabelsBy
    num_classes: int
    content: Callable[[tuple[int, int]], Content]

    def between(self, start: int, stop: int) -> list[LabelMap]:
        """Return the label maps of the images from ``start`` to before ``stop``, in outputs.

        Raises:
            DataError: a map cannot be read, or has a value that is no output; the message names it.
        """
        return [self._label_map(index) for index in range(start, stop)]

    def _label_map(self, index: int) -> LabelMap:
        import numpy as np

        classes = self._classes(index)
        known = classes != UNLABELLED
        if self.outputs is None and known.any() and (most := int(classes[known].max())) >= self.num_classes:
            raise DataError(
                f"the label map of image {index} of {self.source.name!r} has the value {most}, but the model has the "
                f"classes 0 to {self.num_classes - 1}: number classes as the model does, or name them in classes.txt"
            )
        if self.outputs is not None:
            classes = np.where(known, np.array(self.outputs, dtype=np.int64)[np.where(known, classes, 0)], UNLABELLED)
        return LabelMap(classes, self.content((classes.shape[0], classes.shape[1])))

    def _classes(self, index: int) -> npt.NDArray[np.int64]:
        if isinstance(self.source, MapSource):
            return self.source.label_map(index)
        assert isinstance(self.source, AnnotatedSource)  # noqa: S101 - as match_maps has seen
        return map_of_objects(self.source.objects(index))


def match_maps(name: str, loaded: LoadedModel, num_classes: int, required: bool) -> MatchedMaps | None:
    """Open a source and match the classes of its pixels with outputs; return None if it has none and need not.

    Args:
        name: of the source.
        loaded: the model.
        num_classes: number of its outputs.
        required: whether to refuse images without label maps.

    Raises:
        DataError: there are no such images, or a class is no output of the model, or a file is no image; the message
            names it.
    """
    source = open_source(name, "evaluation")
    if not (isinstance(source, MapSource) or (isinstance(source, AnnotatedSource) and source.has_masks)):
        if required:
            raise DataError(
                f"images in {name!r} have no classes of pixels: give maps:IMAGES:LABELS, coco:FILE.json with masks, or "
                "shapes"
            )
        return None
    check_headers(source, range(len(source)))
    names = loaded.label_names
    if source.class_names is None:
        return MatchedMaps(source, None, "index", num_classes, loaded.content)
    mapping = class_indices(
        source.class_names, names, num_classes, lambda: alternative_names(names or ()), noun="category"
    )
    return MatchedMaps(source, mapping.indices, mapping.by, num_classes, loaded.content)
