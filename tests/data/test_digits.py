"""The bundled digits and their splits."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import autoq.data.digits as digits
from autoq.data import open_source


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


def test_digits_are_grayscale_and_labelled():
    source = open_source("digits", "evaluation")
    image = source.load(0)
    assert (image.mode, image.size, image.getextrema()[1]) == ("L", (8, 8), 255)
    assert source.class_names == tuple("0123456789")
    assert source.label(0) in range(10)


def test_the_file_is_read_as_scikit_learn_reads_it(monkeypatch: pytest.MonkeyPatch):
    expected = load_digits()
    read = digits._rows()
    assert np.array_equal(read[:, :-1], expected.data)
    assert np.array_equal(read[:, -1], expected.target)
    monkeypatch.setattr(digits, "_FILE", "datasets/elsewhere.csv.gz")
    assert np.array_equal(digits._rows(), read), "wherever a later scikit-learn has it"
