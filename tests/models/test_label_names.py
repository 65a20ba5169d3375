"""Other names of outputs."""

from __future__ import annotations

import timm

from autoq.models.label_names import alternative_names


def test_synonyms_count_each() -> None:
    assert alternative_names(["tench, Tinca tinca", "cat"]) == [("tench", "Tinca tinca"), ()]


def test_classes_of_imagenet_are_known_as_synsets_and_as_words() -> None:
    subset = timm.data.ImageNetInfo("imagenet-1k")
    synsets, words = subset.label_names(), subset.label_descriptions()
    assert alternative_names(synsets)[0][:2] == ("n01440764", "tench, Tinca tinca")
    assert "tench" in alternative_names(synsets)[0]
    spelled = ["another spelling", *words[1:]]
    assert alternative_names(spelled)[1][0] == "n01443537"


def test_others_that_are_as_many_are_not_imagenet() -> None:
    assert alternative_names([f"class {index}" for index in range(1000)]) == [()] * 1000
