from __future__ import annotations

import numpy as np
import pytest

from autoq.data import UNLABELLED, AnnotatedSource, MapSource, map_of_objects, open_source
from autoq.errors import DataError
from tests.tasks.objects import objects


def test_pixels_have_the_class_of_their_object() -> None:
    there = objects((0, 0, 10, 10), (5, 0, 15, 10), (8, 5, 20, 10), labels=(1, 1, 0))
    found = map_of_objects(there)
    assert found.shape == there.size
    assert set(found[:5, :15].ravel()) == {1}  # two objects of one class are no contradiction
    assert set(found[5:10, 8:15].ravel()) == {UNLABELLED}  # two classes are
    assert set(found[5:10, 15:20].ravel()) == {0}
    assert set(found[10:].ravel()) == {UNLABELLED}
    with pytest.raises(DataError, match="objects without masks"):
        map_of_objects(objects((0, 0, 10, 10), masks=False))


def test_the_map_of_drawn_shapes_has_their_areas() -> None:
    source = open_source("shapes/val", "evaluation")
    assert isinstance(source, AnnotatedSource)
    assert not isinstance(source, MapSource)
    there = source.objects(1)
    assert there.masks is not None
    found = map_of_objects(there)
    for label in np.unique(there.labels):
        assert (found == label).sum() == there.masks[there.labels == label].sum()
