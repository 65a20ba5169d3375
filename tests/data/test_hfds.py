"""Data sets of the Hugging Face hub, without a network."""

import sys
import types

import pytest
from PIL import Image

from autoq.data import open_source
from tests.data.sources import message_of


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
