"""Writing a format that cannot hold everything, and what the report says of it."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from autoq.errors import ExportError, RunError
from autoq.exporters import BaseExporter, ExportSource, RecipeExporter, Written, write_export
from autoq.exporters._base import Runner, tensors_of
from autoq.graph.insert import OperandKey
from autoq.optimization.space import load_target
from tests.exporters.sources import source_of


class WeightsOnly(BaseExporter):
    """Holds weights; calls the model itself for its file."""

    name: ClassVar[str] = "weights_only"
    suffix: ClassVar[str] = ".txt"
    reader: ClassVar[str] = "nobody"
    expresses: ClassVar[str] = "weights"
    loses: ClassVar[str] = "activations"

    def inexpressible(self, source: ExportSource) -> dict[OperandKey, str]:
        return {key: "it is no weight" for key in source.module.quantizers if key[1] != "weight"}

    def write(self, source: ExportSource, path: Path) -> Written:  # noqa: ARG002
        path.write_text("model")
        path.with_suffix(".more").write_text("more of it")
        return Written({("head", "weight"): "no integer head"}, {"threads": "1"})

    def load(self, source: ExportSource, path: Path) -> Runner:
        assert path.read_text() == "model"

        def run(images: Tensor) -> list[Tensor]:
            return tensors_of(source.module(images))

        return run


def test_what_does_not_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such operator\nin line 3")

    monkeypatch.setattr(WeightsOnly, "load", fail)
    with pytest.raises(RunError, match=r"does not run: no such operator; nothing was written"):
        write_export(WeightsOnly(), source_of("weights"), tmp_path / "x.txt")
    assert list(tmp_path.iterdir()) == []


def test_sites_schemes_and_reasons_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as caught:
        write_export(WeightsOnly(), source_of("mixed"), tmp_path / "x.txt")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("format 'weights_only' cannot hold embed:input (uniform), qkv:input (uniform), ")
    assert " more: it is no weight; use --allow-float to leave these in floating point" in message


def test_what_is_left_in_float_is_no_longer_rounded(tmp_path: Path) -> None:
    source = source_of("mixed")
    report = write_export(WeightsOnly(), source, tmp_path / "x.txt", allow_float=True)
    activations = [f"{site}:{operand}" for site, operand in source.module.quantizers if operand != "weight"]
    assert list(report.left_in_float) == activations
    assert report.agreement is not None
    assert report.agreement.mean_difference == 0.0, "compared with the model that has them in float, too"
    assert report.plain_operators == {"head:weight": "no integer head"}
    assert report.session_options == {"threads": "1"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.more", "x.txt"]
    assert report.bytes == len("model") + len("more of it")


@torch.no_grad()
def test_a_module_without_operands_is_a_copy() -> None:
    source = source_of("w4a4")
    module, images = source.module, source.images
    before = module(images)["logits"]
    weight = ("fc1", "weight")
    without = module.without([weight, ("fc1", "input")])
    assert weight not in without.quantizers
    assert weight not in without.codes
    assert "fc1" not in without.recipe.sites
    assert not torch.equal(without(images)["logits"], before)
    assert torch.equal(module(images)["logits"], before)
    left = module.without([weight])
    assert torch.equal(left(images)["logits"], before), "a weight keeps the values of its codes"


def test_what_a_target_lacks_is_refused_or_left_in_float(tmp_path: Path) -> None:
    source, target = source_of("w4a4"), load_target("int8-int4")
    with pytest.raises(ExportError) as caught:
        write_export(RecipeExporter(), source, tmp_path / "x.json", target=target)
    message = str(caught.value)
    assert message.startswith("format 'recipe' for target 'int8-int4' cannot hold embed:weight (uniform), ")
    assert message.count(": the target has symmetric True, not False") == 1
    report = write_export(RecipeExporter(), source, tmp_path / "x.json", target=target, allow_float=True)
    assert set(report.left_in_float) == {f"{site}:weight" for site in source.recipe.sites if site not in ("qk", "av")}
    assert write_export(RecipeExporter(), source, tmp_path / "y.json", target=load_target("any")).left_in_float == ()
