"""What methods inherit: options, plain rounding, kinds of operands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import nn

from autoq.errors import MethodError
from autoq.graph.trace import trace
from autoq.methods import METHODS, BaseMethod, BitWidths, MethodOptions, create_method
from autoq.recipe import OperandConfig
from autoq.reconstruction.mlp_training import MlpSettings
from autoq.reconstruction.settings import ReconstructionSettings
from tests.methods.configured import KINDS, by_kind, traced_model, uniform


class Distinct(BaseMethod):
    """A width of its own for each kind of operand, to tell which method configured it."""

    name: ClassVar[str] = "distinct"
    taken_options: ClassVar[Mapping[str, tuple[object, ...]]] = {"iterations": (), "mlp": (), "importance": ("mse",)}
    reconstruction: ClassVar[ReconstructionSettings | None] = ReconstructionSettings(batch=4)
    mlp_reconstruction: ClassVar[MlpSettings | None] = MlpSettings(batch_size=5)

    def weight(self, bits: int) -> OperandConfig:
        return uniform(bits)

    def layer_input(self, bits: int) -> OperandConfig:
        return uniform(bits + 1)

    def gelu_output(self, bits: int) -> OperandConfig:
        return uniform(bits + 2)

    def attention_operand(self, bits: int) -> OperandConfig:
        return uniform(bits + 3)

    def attention_map(self, bits: int) -> OperandConfig:
        return uniform(bits + 4)

    def norm_input(self, bits: int) -> OperandConfig:
        return uniform(bits + 5)

    def softmax_input(self, bits: int) -> OperandConfig:
        return uniform(bits + 6)


def test_each_kind_of_operand_has_its_own_method() -> None:
    bits = {kind: config.bits for kind, config in by_kind(Distinct()).items()}
    assert bits == {
        "image": 8,
        "weight": 3,
        "layer input": 5 + 1,
        "gelu output": 5 + 2,
        "query": 5 + 3,
        "key": 5 + 3,
        "value": 5 + 3,
        "attention map": 4 + 4,
        "norm input": 5 + 5,
        "softmax input": 5 + 6,
    }
    assert bits.keys() == KINDS.keys()


def test_pixels_have_eight_bits_at_least() -> None:
    for activations, expected in ((2, 8), (8, 8), (10, 10)):
        sites = create_method("rtn").sites(traced_model(), BitWidths(4, activations, 4))
        assert sites["patch_embed.proj"]["input"] == uniform(expected)


def test_options_change_the_training_they_are_of() -> None:
    plain = Distinct()
    assert plain.reconstruction_settings(7) == ReconstructionSettings(batch=4, seed=7)
    assert plain.mlp_settings(7, BitWidths(4, 4, 4)) == MlpSettings(batch_size=5, seed=7)
    changed = Distinct(MethodOptions(iterations=9, importance="mse"))
    assert changed.reconstruction_settings(7) == ReconstructionSettings(batch=4, seed=7, iterations=9, importance="mse")
    assert changed.mlp_settings(7, BitWidths(4, 4, 4)) == replace(MlpSettings(batch_size=5, seed=7), iterations=9)
    assert Distinct(MethodOptions(mlp=False)).mlp_settings(7, BitWidths(4, 4, 4)) is None


def test_options_that_are_given() -> None:
    assert MethodOptions().given() == {}
    assert MethodOptions(groups=0, ptf=False).given() == {"groups": 0, "ptf": False}


@pytest.mark.parametrize("name", METHODS)
def test_protocols(name: str) -> None:
    """Who has differences takes both protocols; the published one is named by the recipe."""
    if not METHODS[name].differences:
        with pytest.raises(MethodError, match="has no option --protocol"):
            create_method(name, MethodOptions(protocol="published"))
        return
    published, own = (create_method(name, MethodOptions(protocol=protocol)) for protocol in ("published", "autoq"))
    assert (published.label(BitWidths(4, 4, 4)), own.label(BitWidths(4, 4, 4))) == (
        f"{name} w4a4 (published)",
        f"{name} w4a4",
    )
    assert create_method(name).settings(3) == own.settings(3)
    assert own.settings(3) != published.settings(3) or name == "igq-vit", "whose protocols differ in images alone"
    for each in METHODS[name].differences:
        assert each.subject
        assert each.published != each.autoq
        assert each.here != each.published
    with pytest.raises(MethodError, match="protocol 'paper' is not one of autoq, published"):
        create_method(name, MethodOptions(protocol="paper"))


@pytest.mark.parametrize(
    ("name", "bits", "in_full_precision"),
    [
        ("adalog", "w8a8", {"stem:input", "next:input", "up:weight", "up:input"}),
        ("aphq-vit", "w6a6", {"stem:input", "up:weight", "up:input"}),
        ("repq-vit", "w8a8", {"up:weight", "up:input"}),
        ("igq-vit", "w8a8", set()),
    ],
)
def test_convolutions_as_published(name: str, bits: str, in_full_precision: set[str]) -> None:
    """Inputs of convolutions are quantized below 8 bits only, transposed ones not at all."""
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2, 2))
    names = dict(zip(("0", "2", "4"), ("stem", "next", "up"), strict=True))
    traced = trace(module.eval(), torch.zeros(2, 3, 4, 4))
    everything = {f"{names[site.name]}:{operand.name}" for site, operand in traced.operands() if site.macs}

    def left(protocol: str) -> set[str]:
        method = create_method(name, MethodOptions(protocol=protocol))
        sites = method.sites(traced, BitWidths.parse(bits))
        return everything - {f"{names[site]}:{operand}" for site, found in sites.items() for operand in found}

    assert left("published") == in_full_precision
    assert left("autoq") == set()


def test_options_that_a_method_does_not_have() -> None:
    with pytest.raises(MethodError, match=r"rtn has no option --ptf; it has none"):
        create_method("rtn", MethodOptions(ptf=True))
    with pytest.raises(MethodError, match=r"igq-vit has no option --lis; it has --groups, --observer, --protocol"):
        create_method("igq-vit", MethodOptions(lis=False))
    with pytest.raises(MethodError, match="fq-vit: observer 'mse' is not one of min_max, ema, percentile, omse"):
        create_method("fq-vit", MethodOptions(observer="mse"))
