"""Something to export: a small transformer that returns a dictionary, quantized in many ways."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

from torch import Tensor, nn

from autoq.calibration import Bank, CalibrationSettings
from autoq.exporters import Architecture, ExportSource
from autoq.graph.bases import share_basis
from autoq.graph.insert import QuantizedModel
from autoq.graph.sites import Operand, Site
from autoq.graph.trace import trace
from autoq.recipe import ModelReference, OperandConfig, Recipe, SiteConfig
from autoq.scoring.quantized_module import QuantizedModule
from autoq.scoring.solved_operands import SolvedOperands, read_operands
from tests.api.models import IMAGES, make

NAME = "python:tests.exporters.sources:make_fed"
PREPROCESSING = {"input_size": [3, 16, 16], "mean": [0.5]}


def uniform(bits: int, *, symmetric: bool = False) -> Callable[[Site, Operand], OperandConfig | None]:
    """Weights per output channel, activations per tensor."""

    def configure(site: Site, operand: Operand) -> OperandConfig | None:
        granularity = "channel" if operand.is_weight else "tensor"
        config = OperandConfig(scheme="uniform", bits=bits, granularity=granularity, symmetric=symmetric)
        return config if site.macs else None

    return configure


def weights(site: Site, operand: Operand) -> OperandConfig | None:
    """Weights alone, of many widths."""
    bits = {"embed": 8, "qkv": 4, "proj": 1, "fc1": 3, "fc2": 5}.get(site.name, 2)
    symmetric = site.name in ("qkv", "fc2")
    granularity = "tensor" if site.name == "fc1" else "channel"
    config = OperandConfig(scheme="uniform", bits=bits, granularity=granularity, symmetric=symmetric)
    return config if operand.is_weight and site.macs else None


def linear(site: Site, operand: Operand) -> OperandConfig | None:
    """Weights and inputs of linear layers: both, one of them, of many widths."""
    if site.op != "linear" or (site.name, operand.name) in {("fc2", "input"), ("head", "weight")}:
        return None
    bits = {"qkv": 8, "fc1": 3, "proj": 5}.get(site.name, 4) if operand.is_weight else 6 + (site.name == "qkv") * 2
    return uniform(bits, symmetric=site.name == "proj")(site, operand)


def fpga(site: Site, operand: Operand) -> OperandConfig | None:
    """Symmetric, but for the output of a softmax, whose zero point is 0; heads have scales of their own."""
    config = uniform(9 if site.name == "embed" else 5, symmetric=operand.producer != "softmax")(site, operand)
    if config is None or operand.layout.head_axis is None or operand.producer == "softmax":
        return config
    return config.model_copy(update={"granularity": "head"})


def mixed(site: Site, operand: Operand) -> OperandConfig | None:
    """Logarithms, groups, heads, transforms, several widths, and some operands in floating point."""
    if not site.macs or site.name == "head":
        return None
    if operand.is_weight:
        bits = 3 if site.name == "fc1" else 5
        return OperandConfig(scheme="uniform", bits=bits, granularity="channel", symmetric=site.name == "qkv")
    if operand.producer == "softmax":
        return OperandConfig(scheme="adalog", bits=4, log_base_numerator=31)
    if site.name == "fc2":
        return OperandConfig(scheme="hadamard", bits=6, hadamard_block=8)
    if site.name == "fc1":
        return OperandConfig(scheme="instance_groups", bits=4, groups=4)
    if operand.layout.head_axis is not None:
        return OperandConfig(scheme="uniform", bits=6, granularity="head")
    if site.name == "proj":
        return OperandConfig(scheme="uniform", bits=5, granularity="group", groups=4)
    return OperandConfig(scheme="uniform", bits=7)


def floating(site: Site, operand: Operand) -> OperandConfig | None:
    """Floating-point formats, one a site."""
    schemes = {"qkv": "mxfp4", "qk": "nvfp4", "fc1": "mxint8"}
    if site.name not in ("qkv", "qk", "fc1", "fc2"):  # each of the others is seconds more of every export
        return None
    scheme = schemes.get(site.name, "fp8_e4m3")
    granularity = "channel" if operand.is_weight and scheme == "fp8_e4m3" else "tensor"
    return OperandConfig(scheme=scheme, bits=4 if scheme.endswith("fp4") else 8, granularity=granularity)


def published(site: Site, operand: Operand) -> OperandConfig | None:
    """Schemes of FQ-ViT and PTQ4ViT, whose LayerNorm and softmax run in integers."""
    if site.op == "softmax":
        return OperandConfig(scheme="uniform", bits=8)
    if site.op == "layer_norm":
        return OperandConfig(scheme="power_of_two_factor", bits=8)
    if operand.producer == "softmax":
        return OperandConfig(scheme="log_int_softmax", bits=4)
    if operand.producer == "gelu":
        return OperandConfig(scheme="twin_uniform", bits=8)
    return uniform(8)(site, operand)


CASES: dict[str, Callable[[Site, Operand], OperandConfig | None]] = {
    "w8a8": uniform(8),
    "w4a4": uniform(4),
    "symmetric": uniform(6, symmetric=True),
    "weights": weights,
    "linear": linear,
    "fpga": fpga,
    "mixed": mixed,
    "floating": floating,
    "published": published,
}
"""Recipes by name: what each operand gets; None: floating point."""


def make_fed() -> tuple[nn.Module, Tensor]:
    """The model and an example of its input, as a name loads them."""
    return make(), IMAGES[:1]


@cache
def architecture() -> Architecture:
    """The model's own module, and its graph."""
    return Architecture(make(), small_model().traced)


@cache
def small_model() -> QuantizedModel:
    """Traced once; its slots are emptied by calibration."""
    return QuantizedModel(trace(make(), IMAGES[:2]))


def sites_of(case: str) -> dict[str, SiteConfig]:
    """The sites of a recipe of ``CASES``."""
    sites: dict[str, SiteConfig] = {}
    for site in small_model().traced.sites:
        configured = {operand.name: CASES[case](site, operand) for operand in site.operands}
        if found := {name: config for name, config in configured.items() if config is not None}:
            sites[site.name] = share_basis(site.operands, found)
    return sites


@cache
def solved(case: str) -> SolvedOperands:
    """Operands with second-order weights, which are not the nearest ones."""
    settings = CalibrationSettings(observer="mse", second_order=True)
    return SolvedOperands.from_bank(Bank(small_model(), IMAGES, settings, {}), sites_of(case))


def module_of(recipe: Recipe, operands: SolvedOperands) -> QuantizedModule:
    """The recipe applied to the small model."""
    return QuantizedModule(small_model().traced, operands, recipe, preprocessing=PREPROCESSING)


def source_of(case: str) -> ExportSource:
    """A source of ``CASES``, whose recipes can be read back."""
    recipe = Recipe(model=ModelReference(name=NAME, weights_sha256="0" * 64), sites=sites_of(case))

    def reopen(changed: Recipe) -> QuantizedModule:
        assert changed.operands is not None
        found = read_operands((changed.folder or Path()) / changed.operands.file, small_model())
        return module_of(changed, found.operands)

    return ExportSource(recipe, lambda: module_of(recipe, solved(case)), lambda: IMAGES, reopen, architecture)


def nothing() -> NoReturn:
    """Stand in for a quantized model or images that a format must not ask for."""
    raise AssertionError("the format needs the recipe alone")


def bare(recipe: Recipe) -> ExportSource:
    """A source without a model."""
    return ExportSource(recipe, nothing, nothing)
