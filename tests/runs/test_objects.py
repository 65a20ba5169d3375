from __future__ import annotations

import pytest

from autoq.errors import DataError
from autoq.models import load_model
from autoq.runs.objects import match_objects


def test_objects_are_labelled_with_outputs() -> None:
    loaded = load_model("swin_shapes", pretrained=False)
    matched = match_objects("shapes/val", loaded, 4, required=True)
    assert matched is not None
    assert matched.mapping.by == "name"
    found = matched.between(0, 3)
    assert [each.labels.tolist() for each in found] == [matched.source.objects(i).labels.tolist() for i in range(3)]


def test_images_without_boxes() -> None:
    loaded = load_model("swin_shapes", pretrained=False)
    assert match_objects("digits", loaded, 4, required=False) is None
    with pytest.raises(DataError, match="images in 'digits' have no boxes"):
        match_objects("digits", loaded, 4, required=True)
