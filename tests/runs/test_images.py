"""A model's input, made of images that are named or given as objects."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from autoq.data import fingerprint, open_source
from autoq.errors import DataError
from autoq.runs.images import ImageReader, least_held_out, most_held_out
from autoq.tasks import DenseTask
from tests.runs.small_run import small_session


def reader(**changes: Any) -> ImageReader:
    return replace(small_session().reader, **changes)


def given(count: int = 9) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_seeded_subset_of_named_images() -> None:
    images = reader().calibration_images("digits", 6, 3)
    assert (images.data, images.seed, images.tensor.shape) == ("digits", 3, (6, 1, 8, 8))
    assert images.sha256 == reader().calibration_images("digits", 6, 3).sha256
    assert images.sha256 != reader().calibration_images("digits", 6, 4).sha256
    more = reader().calibration_images("digits", 8, 3)
    assert torch.equal(more.tensor[:6], images.tensor)
    assert images.sha256 == fingerprint(images.tensor)


def test_images_that_are_given_are_the_input_as_they_are() -> None:
    images = reader().calibration_images(given(), 9, 0)
    assert images.data == "memory:Tensor"
    assert {fingerprint(image) for image in images.tensor} == {fingerprint(image) for image in given()}
    assert reader(dtype=torch.bfloat16).calibration_images(given(), 2, 0).tensor.dtype == torch.bfloat16
    with pytest.raises(DataError, match=r"images have shape \(1, 9, 8\), but 'vit_digits' takes \(1, 8, 8\)"):
        reader().calibration_images(torch.rand(2, 1, 9, 8), 2, 0)


def test_too_few_images_are_told_to_who_named_them(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert len(reader().calibration_images("digits", 1000, 0).tensor) == 256
        assert len(reader().calibration_images(given(), 1000, 0).tensor) == 9
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "digits has 256 images, fewer than the 1000 asked for" in caplog.text


def test_labels_are_the_models_outputs() -> None:
    found = reader(batch_size=100).labelled_images("digits/val")
    assert found is not None
    assert (found.data, found.count) == ("digits/val", 540)
    for _ in range(2):
        batches = list(found.batches())
        assert all(len(images) == len(labels) <= 100 for images, labels in batches)
        assert sum(len(labels) for _, labels in batches) == 540
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    source = open_source("digits/val", "evaluation")
    assert labels.tolist() == [source.label(index) for index in range(540)]
    with torch.inference_mode():
        assert (small_session().loaded.module(images).argmax(1) == labels).double().mean() > 0.95


def test_images_without_labels_are_refused_where_labels_are_required(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    for data, message in ((str(tmp_path), "put each class into a folder"), (given(), r"give \(images, labels\)")):
        assert reader().labelled_images(data, required=False) is None
        with pytest.raises(DataError, match=message):
            reader().labelled_images(data)


def test_classes_that_the_model_does_not_have(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "cat" / "a.png")
    with pytest.raises(DataError, match="cat"):
        reader().labelled_images(str(tmp_path))
    assert reader().labelled_images(str(tmp_path), required=False) is None
    assert "accuracy is not measured" in caplog.text
    for labels in (torch.full((9,), 10), torch.full((9,), -1)):
        with pytest.raises(DataError, match="but the model has 10 outputs"):
            reader().labelled_images((given(), labels))


def test_labels_are_checked_in_later_batches_too() -> None:
    labels = torch.tensor([0, 9, 0, 10])
    found = reader(batch_size=2).labelled_images((given(4), labels))
    assert found is not None
    with pytest.raises(DataError, match="labels run from 0 to 10"):
        list(found.batches())


def test_labelled_images_of_a_generator_can_be_read_twice() -> None:
    pairs = ((given()[start : start + 3], torch.arange(start, start + 3)) for start in (0, 3, 6))
    found = reader().labelled_images(pairs)
    assert found is not None
    for _ in range(2):
        assert torch.cat([labels for _, labels in found.batches()]).tolist() == list(range(9))
    assert found.count == 9


def test_labels_of_maps_cannot_be_class_folders() -> None:
    dense = reader(task=DenseTask())
    assert dense.labelled_images("digits/val", required=False) is None
    with pytest.raises(DataError, match="those of the task 'dense' are tensors"):
        dense.labelled_images("digits/val")


def test_all_images_in_batches() -> None:
    batches = list(reader(batch_size=50).unlabelled_batches("digits/calib"))
    assert [len(images) for images in batches] == [50] * 5 + [6]
    assert torch.equal(torch.cat(list(reader(batch_size=4).unlabelled_batches(given()))), given())


def test_pictures_need_a_transform() -> None:
    blind = reader(loaded=replace(small_session().loaded, transform=None))
    with pytest.raises(DataError, match="give preprocess"):
        blind.calibration_images("digits", 2, 0)
    assert len(blind.calibration_images(given(), 2, 0).tensor) == 2


def test_images_are_held_out_where_enough_are_left() -> None:
    images = reader().calibration_images(torch.rand(70, 1, 8, 8), 30, 0, spare=most_held_out(30))
    calibrating, scoring = images.held_out(30)
    assert (len(calibrating.tensor), len(scoring.tensor)) == (30, 32)
    assert torch.equal(torch.cat([calibrating.tensor, scoring.tensor]), images.tensor)
    calibrating, scoring = images.held_out(31)
    assert scoring is calibrating, "31 are left, and 32 are needed"
    assert (least_held_out(16), most_held_out(16)) == (32, 32)
    assert (least_held_out(400), most_held_out(400)) == (100, 400)


def test_images_without_others() -> None:
    data = torch.arange(9.0).reshape(9, 1, 1, 1).expand(9, 1, 8, 8)
    images, others = reader().calibration_images(data, 9, 0), reader().calibration_images(data, 4, 5)
    left = images.without(others, 3)
    assert len(left.tensor) == 3
    known = {float(image.mean()) for image in others.tensor}
    means = [float(image.mean()) for image in images.tensor]
    assert [float(image.mean()) for image in left.tensor] == [mean for mean in means if mean not in known][:3]
