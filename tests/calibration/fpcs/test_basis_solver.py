"""The layer-output search in other bases: the same product, of transformed operands."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from autoq.calibration.fpcs.basis_solver import BasisSolver
from autoq.errors import RecipeError
from autoq.quantizers import HadamardQuantizer
from autoq.recipe import OperandConfig, SiteConfig
from tests.calibration.output_samples import (
    EVERYTHING,
    SiteSample,
    assert_equal,
    attention,
    by_own_error,
    convolution,
    linear,
    solver_of,
    uniform,
)
from tests.calibration.samples import SETTINGS

SAMPLES = {"linear": linear(inputs=8), "conv2d": convolution(), "conv1d": convolution(1), "qk": attention("qk")}


def hadamard(bits: int = 3, granularity: str = "tensor", block: int = 4) -> OperandConfig:
    return OperandConfig.model_validate(
        {"scheme": "hadamard", "bits": bits, "granularity": granularity, "hadamard_block": block}
    )


def of_operands(sample: SiteSample, weights: OperandConfig, activations: OperandConfig) -> SiteConfig:
    return {each.name: weights if each.is_weight else activations for each in sample.site.operands}


def solver(sample: SiteSample) -> BasisSolver:
    return BasisSolver(sample.site, sample.operands, replace(SETTINGS, fpcs=EVERYTHING), sample.convolution)


@pytest.mark.parametrize("kind", SAMPLES)
def test_the_output_is_nearer_than_by_own_error(kind: str) -> None:
    sample = SAMPLES[kind]
    configs = of_operands(sample, hadamard(3, "channel"), hadamard(3))
    found = solver(sample).solve(configs)
    assert all(isinstance(each, HadamardQuantizer) for each in found.values())
    assert {name: each.config for name, each in found.items()} == configs
    own = by_own_error(sample, configs, SETTINGS)
    assert sample.error(found).sum() <= 1.001 * sample.error(own).sum()
    assert not torch.equal(next(iter(found.values())).qparams()["scale"], next(iter(own.values())).qparams()["scale"])


@pytest.mark.parametrize("name", ["input", "weight"])
def test_one_operand_alone_is_searched_in_its_basis(name: str) -> None:
    sample = SAMPLES["linear"]
    found = solver(sample).solve({name: hadamard(2)})
    own = by_own_error(sample, {name: hadamard(2)}, SETTINGS)
    assert found.keys() == {name}
    assert sample.error(found).sum() <= 1.001 * sample.error(own).sum()


def test_without_a_basis_it_is_the_site_solver() -> None:
    sample = SAMPLES["linear"]
    configs = of_operands(sample, uniform(3, "channel"), uniform(4))
    mixed = solver(sample)
    mixed.solve(of_operands(sample, hadamard(), hadamard()))
    assert_equal(mixed.solve(configs), solver_of(sample).solve(configs))
    assert mixed.solve({}) == {}


def test_operands_in_two_bases_are_refused() -> None:
    sample = SAMPLES["linear"]
    with pytest.raises(RecipeError, match="different bases"):
        solver(sample).solve(of_operands(sample, uniform(), hadamard()))
