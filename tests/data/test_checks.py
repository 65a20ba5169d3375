"""Unreadable files are found without decoding; images that two sources share are counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from autoq.data import check_headers, open_source, shared_images
from autoq.errors import DataError
from tests.data.sources import make_tar, write_image


@pytest.mark.parametrize("is_archive", [False, True])
def test_files_that_are_no_images_are_named_and_counted(tmp_path: Path, is_archive: bool) -> None:
    for name in ("a", "b", "c"):
        write_image(tmp_path / "x" / name / "0.png", 7)
    (tmp_path / "x" / "a" / "0.png").write_text("garbage")
    (tmp_path / "x" / "b" / "1.png").write_bytes(b"")
    path = make_tar(tmp_path / "x", tmp_path / "x.tar", "w", ".") if is_archive else tmp_path / "x"
    source = open_source(str(path), "evaluation")
    with pytest.raises(DataError, match=r"a/0\.png.*remove or replace it \(1 more cannot be read either\)"):
        check_headers(source, range(len(source)))
    check_headers(source, [1, 3])
    check_headers(open_source("digits", "evaluation"), [0])


def test_images_are_shared_by_content_not_by_name(tmp_path: Path) -> None:
    for index in range(3):
        write_image(tmp_path / "one" / "cat" / f"{index}.png", 40 * index)
    write_image(tmp_path / "two" / "copy.png", 40)
    write_image(tmp_path / "two" / "new.png", 200)
    one, two = (open_source(str(tmp_path / name), "evaluation") for name in ("one", "two"))
    assert shared_images(one, one) == 3
    assert (shared_images(one, two), shared_images(two, one)) == (1, 1)
    tar = open_source(str(make_tar(tmp_path / "one", tmp_path / "one.tar", "w", ".")), "evaluation")
    assert shared_images(tar, one) == 3
    digits = {split: open_source(f"digits/{split}", "evaluation") for split in ("train", "calib", "val")}
    assert shared_images(digits["val"], digits["val"]) == 540
    assert shared_images(digits["val"], digits["calib"]) == shared_images(digits["val"], one) == 0


def test_a_file_that_disappears_is_shared_with_nobody(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    source = open_source(str(tmp_path), "evaluation")
    (tmp_path / "a.png").unlink()
    assert shared_images(source, source) == 0
