import copy
import gzip
import pickle
import sys
import tarfile
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autoq.data import open_source
from autoq.errors import DataError


def write_image(path: Path, value: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 5), value).save(path)


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    names = ["10/b.png", "10/a.JPG", "2/deep/c.webp", "2/d.bmp", "cat/e.jpeg"]
    for value, name in enumerate(names):
        write_image(root / name, value * 40)
    (root / "10" / "notes.txt").write_text("not an image")
    write_image(root / "10" / ".hidden.png", 0)
    write_image(root / ".cache" / "f.png", 0)
    return root


def make_tar(folder: Path, path: Path, mode: str, arcname: str) -> Path:
    with tarfile.open(path, mode) as archive:
        archive.add(folder, arcname)
    return path


def contents(source) -> list:
    return [(source.label(i), np.asarray(source.load(i)).tolist()) for i in range(len(source))]


def test_folders_are_labelled_by_the_folder_that_holds_the_image_in_natural_order(image_folder):
    source = open_source(str(image_folder), "calibration")
    assert source.name == str(image_folder)
    assert source.class_names == ("2", "10", "cat", "deep")
    assert [str(path) for path in source.paths] == ["10/a.JPG", "10/b.png", "2/d.bmp", "2/deep/c.webp", "cat/e.jpeg"]
    assert [source.label(i) for i in range(len(source))] == [1, 1, 0, 3, 2]
    assert source.load(1).size == (6, 5)


def test_a_flat_folder_has_no_labels(tmp_path):
    write_image(tmp_path / "b.png", 1)
    write_image(tmp_path / "a.png", 2)
    source = open_source(str(tmp_path), "evaluation")
    assert source.class_names is None
    assert [source.label(i) for i in range(len(source))] == [None, None]
    assert [str(path) for path in source.paths] == ["a.png", "b.png"]


def test_images_beside_class_folders_have_no_label(tmp_path):
    write_image(tmp_path / "cat" / "a.png", 1)
    write_image(tmp_path / "z.png", 2)
    source = open_source(str(tmp_path), "evaluation")
    assert (source.class_names, source.label(0), source.label(1)) == (("cat",), 0, None)


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


def test_the_splits_of_the_digits_are_disjoint_stratified_and_fixed():
    splits = {name: open_source(f"digits/{name}", "calibration") for name in ("train", "calib", "val")}
    indices = {name: set(split.indices) for name, split in splits.items()}
    assert {name: len(split) for name, split in splits.items()} == {"train": 1001, "calib": 256, "val": 540}
    assert len(indices["train"] | indices["calib"] | indices["val"]) == 1797
    for name, split in splits.items():
        counts = np.bincount([split.label(i) for i in range(len(split))], minlength=10)
        assert counts.max() - counts.min() <= (1 if name != "train" else 10)
    # The bundled model was trained on exactly this split: another one would leak validation images into training.
    assert splits["val"].indices[:6] == (1, 5, 6, 9, 12, 14)
    assert sum(index * place for place, index in enumerate(splits["val"].indices)) == 173902885


def test_digits_follow_the_role():
    assert open_source("digits", "calibration").indices == open_source("digits/calib", "evaluation").indices
    assert open_source("digits", "evaluation").indices == open_source("digits/val", "calibration").indices


def test_digits_are_grayscale_and_labelled():
    source = open_source("digits", "evaluation")
    image = source.load(0)
    assert (image.mode, image.size, image.getextrema()[1]) == ("L", (8, 8), 255)
    assert source.class_names == tuple("0123456789")
    assert source.label(0) in range(10)


def message_of(spec: str) -> str:
    with pytest.raises(DataError) as raised:
        open_source(spec, "calibration")
    text = str(raised.value)
    assert "\n" not in text
    assert repr(spec) in text
    return text


def test_unknown_split():
    assert "Did you mean 'digits/val'?" in message_of("digits/vall")
    assert "digits/train" in message_of("digits/")


def test_missing_folder_names_the_nearest(image_folder, monkeypatch):
    assert "Did you mean 'images'?" in message_of(str(image_folder.parent / "imagse"))
    assert "Did you mean 'images'?" in message_of(str(image_folder.parent / "imagse" / "10"))
    assert "Give an image folder" in message_of(str(image_folder.parent / "zzzzzzzz"))
    monkeypatch.chdir(image_folder)
    assert "Did you mean 'digits'?" in message_of("digit")
    message_of("")


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    assert ".jpg" in message_of(str(tmp_path))


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


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda _: b"", lambda data: b"GIF89a" + data])
def test_corrupt_image_is_named(tmp_path, damage):
    path = tmp_path / "a.jpg"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(damage(path.read_bytes()))
    for spec in (tmp_path, make_tar(tmp_path, tmp_path / "t.tar", "w", ".")):
        source = open_source(str(spec), "calibration")
        with pytest.raises(DataError, match=r"a\.jpg'.*remove or replace it") as raised:
            source.load(0)
        assert "\n" not in str(raised.value)


def test_image_that_disappears_is_named(tmp_path):
    write_image(tmp_path / "a.png", 1)
    source = open_source(str(tmp_path), "calibration")
    (tmp_path / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png'.*No such file"):
        source.load(0)


def test_hub_data_sets_need_their_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'autoq[hfds]'" in message_of("hfds/mnist")


class FakeRows:
    """What autoq uses of a ``datasets.Dataset``."""

    def __init__(self, features):
        self.features = features

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"img": Image.new("L", (2, 2), index), "label": index - 1}

    def select_columns(self, columns):
        assert columns == ["label"]
        return self


@pytest.fixture
def fake_datasets(monkeypatch):
    kinds = {kind: type(kind, (), {"names": ["cat", "dog"]}) for kind in ("Image", "ClassLabel", "Value")}
    features = {"img": kinds["Image"](), "label": kinds["ClassLabel"]()}
    module = types.SimpleNamespace(kinds=kinds, features=features, asked=[])
    module.get_dataset_split_names = lambda _: ["train", "test"]

    def load_dataset(name, split):
        if name == "gone":
            raise FileNotFoundError("no such data set\nreally")
        module.asked.append((name, split))
        return FakeRows(module.features)

    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return module


def test_hub_data_sets(fake_datasets):
    source = open_source("hfds/a/pets", "evaluation")
    open_source("hfds/a/pets", "calibration")
    open_source("hfds/a/pets:extra", "calibration")
    assert fake_datasets.asked == [("a/pets", "test"), ("a/pets", "train"), ("a/pets", "extra")]
    assert (len(source), source.class_names, source.label(0), source.label(1)) == (2, ("cat", "dog"), None, 0)
    assert source.load(1).getpixel((0, 0)) == 1


def test_hub_data_sets_that_cannot_be_used(fake_datasets):
    assert "no such data set" in message_of("hfds/gone")
    fake_datasets.features = {"text": fake_datasets.kinds["Value"]()}
    assert "no image column (it has text)" in message_of("hfds/a/texts")
