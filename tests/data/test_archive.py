"""Tars of image folders as sources of images."""

import copy
import gzip
import io
import os
import pickle
import tarfile
from pathlib import Path

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


def test_links_to_members_are_followed(tmp_path: Path) -> None:
    """Hard links, which tar writes for a second name of a file, and symbolic ones, in a row too."""
    write_image(tmp_path / "d" / "a" / "0.png", 1)
    os.link(tmp_path / "d" / "a" / "0.png", tmp_path / "d" / "a" / "1.png")
    (tmp_path / "d" / "b").mkdir()
    (tmp_path / "d" / "b" / "2.png").symlink_to("../a/1.png")
    (tmp_path / "d" / "b" / "3.png").symlink_to("2.png")
    source = open_source(str(make_tar(tmp_path / "d", tmp_path / "d.tar", "w", "d")), "evaluation")
    assert [label for label, _ in contents(source)] == [0, 0, 1, 1]
    assert len({str(pixels) for _, pixels in contents(source)}) == 1


@pytest.mark.parametrize("target", ["../../elsewhere/0.png", "1.png", "0.png", "/etc/passwd", "folder"])
def test_links_that_lead_nowhere_are_counted(tmp_path: Path, target: str, caplog: pytest.LogCaptureFixture) -> None:
    def pack(with_image: bool) -> str:
        path = tmp_path / f"{with_image}.tar"
        write_image(tmp_path / "image.png", 1)
        with tarfile.open(path, "w") as archive:
            for name in ("a/0.png", "a/1.png"):
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, "0.png" if name == "a/1.png" else target
                archive.addfile(link)
            if with_image:
                archive.add(tmp_path / "image.png", "b/2.png")
        return str(path)

    assert "2 images are links to what the archive does not hold" in message_of(pack(with_image=False))
    assert "pack with tar -h" in message_of(str(tmp_path / "False.tar"))
    source = open_source(pack(with_image=True), "evaluation")
    assert len(source) == 1
    assert "2 images are links" in caplog.text


def test_a_tar_with_splits_is_refused(tmp_path: Path) -> None:
    for name in ("train", "val"):
        write_image(tmp_path / "d" / name / "cat" / "0.png", 1)
    for arcname in (".", "d"):
        assert "holds the splits 'train' and 'val'" in message_of(
            str(make_tar(tmp_path / "d", tmp_path / "d.tar", "w", arcname))
        )


def test_folders_without_images_are_known(tmp_path: Path) -> None:
    write_image(tmp_path / "d" / "cat" / "0.png", 1)
    (tmp_path / "d" / "dog").mkdir()
    write_image(tmp_path / "d" / "eel" / "0.png", 1)
    source = open_source(str(make_tar(tmp_path / "d", tmp_path / "d.tar", "w", "d")), "evaluation")
    assert (source.class_names, source.empty_classes) == (("cat", "eel"), ("dog",))


def test_members_with_strange_paths(tmp_path: Path) -> None:
    content = io.BytesIO()
    write_image(tmp_path / "image.png", 1)
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in ("/abs/a.png", "./b.png", "x/../c.png", "../d.png", "."):
            if name == ".":
                folder = tarfile.TarInfo(name)
                folder.type = tarfile.DIRTYPE
                archive.addfile(folder)
            else:
                archive.add(tmp_path / "image.png", name)
    (tmp_path / "t.tar").write_bytes(content.getvalue())
    assert len(open_source(str(tmp_path / "t.tar"), "calibration")) == 3, "one leads out of the archive, and is hidden"
