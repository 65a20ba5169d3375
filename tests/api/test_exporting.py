"""autoq.export."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import autoq
from autoq.errors import ArgumentTypeError, ExportError
from tests.api.models import IMAGES, SETTINGS, make


@pytest.fixture(scope="module")
def result() -> autoq.SearchResult:
    """Rotated, rescaled, with second-order weights, as by default."""
    return autoq.search(make(), IMAGES, "w4a4", **{**SETTINGS, "space": "vit_w2-8"})


def test_formats_are_checked_before_anything_is_written(result: autoq.SearchResult, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="unknown format 'onx'"):
        autoq.export(result.best, tmp_path / "x", "onx")
    assert not list(tmp_path.iterdir())


def test_a_module_a_recipe_and_its_file_give_the_same(result: autoq.SearchResult, tmp_path: Path) -> None:
    searched = result.recipe("best", version="searched")
    quantized = autoq.quantize(make(), searched)
    names = ("from_module", "from_recipe", "again")
    sources = (quantized, searched, tmp_path / "from_recipe.json")
    for name, source in zip(names, sources, strict=True):
        report = autoq.export(source, tmp_path / f"{name}.json", model=make(), images=IMAGES)
        assert report.agreement is not None
        assert report.agreement.mean_difference == 0.0
    documents = [json.loads((tmp_path / f"{name}.json").read_text()) for name in names]
    assert len({document["operands"].pop("sha256") for document in documents}) == 1
    assert [document["operands"].pop("file") for document in documents] == [f"{name}.safetensors" for name in names]
    assert documents[0] == documents[1] == documents[2]


def test_an_exported_recipe_is_not_calibrated_again(
    result: autoq.SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = result.recipe("best", version="searched")
    autoq.export(searched, tmp_path / "mine.json", model=make(), images=IMAGES)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("calibrated again")

    monkeypatch.setattr("autoq.calibration.Bank.solve_all", fail)
    measured = autoq.evaluate(tmp_path / "mine.json", model=make(), calib_data=IMAGES)
    assert measured.score is not None
    assert searched.score is not None
    assert measured.score.kl_nats == searched.score.kl_nats
    assert searched.rotated or searched.reparameterized, "nothing is rotated: the test shows little"


def test_an_exported_recipe_can_be_finished(result: autoq.SearchResult, tmp_path: Path) -> None:
    searched = result.recipe("best", version="searched")
    autoq.export(searched, tmp_path / "mine.json", model=make(), images=IMAGES)
    expected = autoq.finish(make(), searched, IMAGES)
    finished = autoq.finish(make(), tmp_path / "mine.json", IMAGES)
    assert finished.operands is None
    assert finished.score == expected.score


def test_a_module_whose_images_have_no_name_needs_them(result: autoq.SearchResult, tmp_path: Path) -> None:
    quantized = autoq.quantize(make(), result.best)
    with pytest.raises(ArgumentTypeError, match="give images"):
        autoq.export(quantized, tmp_path / "x.pt2", "pt2")
    report = autoq.export(quantized, tmp_path / "x.pt2", "pt2", images=IMAGES, check_images=5)
    assert report.agreement is not None
    assert (report.agreement.images, report.agreement.mean_difference) == (5, 0.0)
    assert autoq.export(quantized, tmp_path / "x.json").agreement is None, "its model is not at hand"
    code = f"import torch; torch.export.load({str(tmp_path / 'x.pt2')!r}).module()(torch.zeros(3, 3, 16, 16))['logits']"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
