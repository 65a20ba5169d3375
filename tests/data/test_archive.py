"""Tars of image folders as sources of images."""

import copy
import gzip
import pickle

import pytest

from autoq.data import open_source
from tests.data.sources import contents, make_tar, message_of, write_image


@pytest.mark.parametrize(("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz")])
@pytest.mark.parametrize("arcname", [".", "images"])
def test_a_tar_is_the_folder_it_was_made_of(image_folder, tmp_path, suffix, mode, arcname):
    path = make_tar(image_folder, tmp_path / f"images{suffix}", mode, arcname)
    folder, archive = open_source(str(image_folder), "calibration"), open_source(str(path), "calibration")
    assert archive.class_names == folder.class_names
    assert contents(archive) == contents(folder)


def test_a_tar_of_a_flat_folder_has_no_labels(tmp_path):
    write_image(tmp_path / "flat" / "a.png", 1)
    source = open_source(str(make_tar(tmp_path / "flat", tmp_path / "flat.tar", "w", "flat")), "calibration")
    assert (source.class_names, source.label(0)) == (None, None)


def test_an_archive_is_opened_again_when_copied(image_folder, tmp_path):
    source = open_source(str(make_tar(image_folder, tmp_path / "i.tar", "w", ".")), "calibration")
    expected = contents(source)
    copies = [copy.deepcopy(source), pickle.loads(pickle.dumps(source))]
    del source
    for again in copies:
        assert contents(again) == expected


def test_tar_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    assert ".jpg" in message_of(str(make_tar(tmp_path / "notes.txt", tmp_path / "n.tar", "w", "notes.txt")))


@pytest.mark.parametrize(
    "content", [b"", b"not a tar" * 200, gzip.compress(b"not a tar either")], ids=["empty", "text", "gzip"]
)
def test_file_that_is_not_a_tar(tmp_path, content):
    path = tmp_path / "data.tar"
    path.write_bytes(content)
    assert "is not a tar" in message_of(str(path))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_truncated_tar(image_folder, tmp_path, mode):
    path = make_tar(image_folder, tmp_path / "data.tar", mode, ".")
    path.write_bytes(path.read_bytes()[: 700 if mode == "w:gz" else 4000])
    assert "truncated or corrupt" in message_of(str(path))
