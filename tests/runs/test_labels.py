"""Labels of a source as outputs of a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoq.data import open_source
from autoq.errors import DataError
from autoq.models import LoadedModel
from autoq.runs.labels import MatchedLabels, match_labels, warn_of_shared_images
from tests.data.sources import write_image
from tests.runs.small_run import small_session


def named(*names: str) -> LoadedModel:
    return replace(small_session().loaded, label_names=names or None)


def match(root: Path, model: LoadedModel, num_classes: int) -> MatchedLabels:
    return match_labels(open_source(str(root), "evaluation"), model, num_classes)


def folders(root: Path, *names: str) -> Path:
    for name in names:
        write_image(root / name / "0.png", 7)
    return root


def test_labels_are_the_models_outputs(tmp_path: Path) -> None:
    root = folders(tmp_path, "c", "a")
    assert match(root, named("a", "b", "c"), 3) == MatchedLabels([0, 1], [0, 2], "name")
    assert match(root, named(), 2) == MatchedLabels([0, 1], [0, 1], "order")


def test_a_folder_that_is_no_class_is_refused_whatever_the_count(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="class folder 'e'"):
        match(folders(tmp_path, "b", "c", "d", "e"), named("a", "b", "c", "d"), 4)


def test_synsets_are_known_by_their_words(tmp_path: Path) -> None:
    import timm

    model = named(*timm.data.ImageNetInfo("imagenet-1k").label_names())
    assert match(folders(tmp_path, "tench", "n01443537"), model, 1000) == MatchedLabels([0, 1], [1, 0], "name")


def test_an_empty_folder_would_shift_the_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folders(tmp_path, "b", "c") / "a").mkdir()
    with pytest.raises(DataError, match=r"class folder 'a' of .* has no image"):
        match(tmp_path, named(), 2)
    assert match(tmp_path, named("a", "b", "c"), 3).outputs == [1, 2]
    assert "has no images of a: accuracy is measured without them" in caplog.text


def test_images_in_no_folder_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_image(folders(tmp_path, "a", "b") / "z.png", 7)
    assert match(tmp_path, named("a", "b"), 2).indices == [0, 1]
    assert "1 of 3 images lie in no class folder" in caplog.text


def test_files_that_are_no_images_are_found_at_once(tmp_path: Path) -> None:
    (folders(tmp_path, "a", "b") / "b" / "1.png").write_text("garbage")
    with pytest.raises(DataError, match=r"b/1\.png"):
        match(tmp_path, named("a", "b"), 2)


@pytest.mark.parametrize(
    ("data", "eval_data", "message"),
    [
        ("photos", "photos", "all images of --eval-data photos are in --data photos"),
        ("photos", "copies", "1 of 2 images of --eval-data copies are in --data photos"),
        ("photos", "others", ""),
        ("digits", "digits/calib", "all images of --eval-data digits/calib are in --data digits"),
        ("digits", "digits/val", ""),
        ("python:m:f", "python:m:f", "all images of"),
        ("photos", None, ""),
    ],
)
def test_images_that_both_calibrate_and_measure_are_told_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    data: str,
    eval_data: str | None,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for path, value in {"photos/a/0.png": 1, "copies/x.png": 1, "copies/y.png": 2, "others/z.png": 3}.items():
        write_image(tmp_path / path, value)
    warn_of_shared_images(data, eval_data)
    assert (message in caplog.text) if message else not caplog.records


def test_one_object_for_both_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    images: list[object] = []
    warn_of_shared_images(images, [])
    assert not caplog.records
    warn_of_shared_images(images, images)
    assert "measured on the images that calibrate" in caplog.text
