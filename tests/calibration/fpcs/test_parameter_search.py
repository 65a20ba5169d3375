"""Bases and scales by the progressive search."""

from __future__ import annotations

import pytest
import torch

from autoq.quantizers import quantizer_class
from autoq.recipe import OperandConfig
from tests.calibration.output_samples import (
    attention,
    linear,
    solve_sample,
    uniform,
)


@pytest.mark.parametrize("scheme", ["log2", "adalog"])
def test_softmax_keeps_scale_one(scheme: str) -> None:
    solved = solve_sample(attention("av"), {"lhs": OperandConfig(scheme=scheme, bits=3, granularity="head")})
    assert (solved["lhs"].qparams()["scale"] == 1).all()
    assert (solved["lhs"].qparams()["shift"] == 0).all()


def test_base_sqrt2_after_softmax_has_a_scale_of_its_own() -> None:
    """At three bits it reaches down to 2^-3 of its scale: of attention over many tokens, little is above that."""
    sample = attention("av", 4, 2, 40)
    config = OperandConfig(scheme="log_sqrt2", bits=3)
    found = solve_sample(sample, {"lhs": config})
    layout, one = sample.site.operand("lhs").layout, torch.ones(1, 1, 1, 1)
    at_one = quantizer_class("log_sqrt2").from_range(config, layout, torch.zeros_like(one), one)
    assert (found["lhs"].qparams()["scale"] < 0.9).all()
    assert (found["lhs"].qparams()["shift"] == 0).all()
    assert float(sample.error(found).sum()) < 0.5 * float(sample.error({"lhs": at_one}).sum())


def test_the_best_base_after_softmax_is_found() -> None:
    sample = attention("av", 4, 2, 10)
    config = OperandConfig(scheme="adalog", bits=3)
    found = float(sample.error(solve_sample(sample, {"lhs": config})).sum())
    every = [
        float(sample.error(solve_sample(sample, {"lhs": config.model_copy(update={"log_base_numerator": q})})).sum())
        for q in range(10, 138)
    ]
    assert found == pytest.approx(min(every), rel=1e-4)
    assert max(every) > 1.5 * found


def test_a_given_base_is_kept() -> None:
    config = OperandConfig(scheme="adalog", bits=3, log_base_numerator=50)
    for sample in (attention("av"), linear(4, 20, 12, 10, "gelu")):
        name = sample.site.operands[0].name
        solved = solve_sample(sample, {name: config})
        assert float(solved[name].qparams()["log_base_numerator"]) == 50


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_constant_operands(bits: int) -> None:
    sample = linear(4, 6, 5, 4)
    for value in (0.0, 2.0):
        sample.operands["input"].fill_(value)
        sample.operands["weight"].fill_(value)
        configs = {"input": uniform(bits), "weight": uniform(bits, "channel")}
        error = float(sample.error(solve_sample(sample, configs)).sum())
        assert error <= 1e-6 * max(value, 1e-6) * sample.output({}).numel()
