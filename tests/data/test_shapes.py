from __future__ import annotations

import numpy as np
import pytest

from autoq.data import AnnotatedSource, open_source
from autoq.data.shapes import CLASS_NAMES, SIDE, draw_shapes
from autoq.errors import DataError


def test_an_image_is_the_same_every_time_and_splits_differ() -> None:
    first, again, other = draw_shapes("val", 3), draw_shapes("val", 3), draw_shapes("calib", 3)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.masks, again.masks)
    assert not np.array_equal(first.pixels, other.pixels)


def test_objects_are_visible_and_boxes_tight() -> None:
    source = open_source("shapes/val", "evaluation")
    assert isinstance(source, AnnotatedSource)
    assert len(source) == 500
    counts, classes = set(), set()
    for index in range(40):
        objects = source.objects(index)
        assert objects.masks is not None
        counts.add(len(objects.labels))
        classes |= set(objects.labels.tolist())
        assert objects.masks.sum(0).max(initial=0) <= 1  # what is hidden belongs to what hides it
        for mask, (left, top, right, bottom) in zip(objects.masks, objects.boxes.astype(int), strict=True):
            assert mask.sum() >= 20
            inside = mask[top:bottom, left:right]
            assert inside.sum() == mask.sum()
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
    assert {0, 1, 6} <= counts
    assert classes == set(range(len(CLASS_NAMES)))
    assert source.load(0).size == (SIDE, SIDE)
    assert source.label(0) is None


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match=r"unknown split 'shapes/vall'.*shapes/val'\?"):
        open_source("shapes/vall", "evaluation")
