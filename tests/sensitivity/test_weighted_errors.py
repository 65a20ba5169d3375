"""Losses of options by the error of their site's output, against the block written out by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration import Bank, CalibrationSettings
from autoq.errors import CalibrationError, RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.recipe import OperandConfig
from autoq.sensitivity.perturbation_hessian import average_perturbation_hessian
from autoq.sensitivity.weighted_errors import aph_losses
from tests.calibration.samples import CHANNELS, TOKENS, Block, block_model, images
from tests.graph.small import tokens, traced
from tests.sensitivity.seeded import seeded


class Einsum(nn.Module):
    """A product whose operands are in a list."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bic,bjc->bij", x, x.exp()).sum(1)


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0


@pytest.fixture(scope="module")
def bank() -> Bank:
    return Bank(block_model(), images(4), CalibrationSettings(), {}, batch_size=4)


def uniform(bits: int, granularity: str = "tensor") -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "uniform", "bits": bits, "granularity": granularity})


def options_of(bank: Bank) -> list[tuple[str, str, OperandConfig]]:
    return [
        (site.name, operand.name, uniform(bits, "channel" if operand.is_weight else "tensor"))
        for site, operand in bank.model.traced.operands()
        for bits in (3, 6)
    ]


def outputs_by_hand(bank: Bank, x: Tensor, option: tuple[str, str, OperandConfig] | None) -> dict[str, Tensor]:
    """Every site's output, the chosen operand quantized where its own site uses it and nowhere else."""
    names = {
        site.name.rpartition(".")[2] if site.op == "matmul" else site.name: site for site in bank.model.traced.sites
    }
    block = seeded(Block)
    assert isinstance(block, Block)
    outputs: dict[str, Tensor] = {}

    def q(site: str, operand: str, value: Tensor) -> Tensor:
        chosen = option is not None and option[:2] == (site, operand)
        return bank.quantizer(*option)(value) if chosen and option is not None else value

    def layer(name: str, value: Tensor) -> Tensor:
        part: nn.Linear = getattr(block, name)
        full = nn.functional.linear(value, part.weight, part.bias)
        outputs[name] = nn.functional.linear(q(name, "input", value), q(name, "weight", part.weight), part.bias)
        return full

    def product(end: str, left: Tensor, right: Tensor) -> Tensor:
        name = names[end].name
        outputs[name] = q(name, "lhs", left) @ q(name, "rhs", right)
        return left @ right

    softmax, norm = (next(s.name for s in names.values() if s.op == op) for op in ("softmax", "layer_norm"))
    outputs[norm] = block.norm(q(norm, "input", x))
    queries, keys, values = (
        layer("qkv", block.norm(x)).reshape(len(x), TOKENS, 3, 2, CHANNELS // 2).permute(2, 0, 3, 1, 4)
    )
    scores = product("qk", queries, keys.transpose(-2, -1))
    outputs[softmax] = q(softmax, "input", scores).softmax(-1)
    mixed = product("av", scores.softmax(-1), values)
    x = x + mixed.transpose(1, 2).reshape(len(x), TOKENS, CHANNELS)
    layer("fc2", block.act(layer("fc1", x)))
    return outputs


@torch.no_grad()
def test_losses_of_every_operand(bank: Bank) -> None:
    batch = images(5, seed=3)
    generator = torch.Generator().manual_seed(0)
    full = outputs_by_hand(bank, batch, None)  # of all sites but sums
    options = [option for option in options_of(bank) if option[0] in full]
    hessians = {name: torch.rand(1, *output.shape[1:], generator=generator) for name, output in full.items()}
    seen: list[int] = []
    found = aph_losses(bank, iter(torch.split(batch, [2, 3])), hessians, options, seen.append)
    assert seen == [2, 3]
    assert list(found) == options
    for option in options:
        error = outputs_by_hand(bank, batch, option)[option[0]] - full[option[0]]
        expected = float((error.double().square() * hessians[option[0]]).sum()) / (2 * 5)
        assert found[option] == pytest.approx(expected, rel=1e-3), option
        assert expected > 0
    assert all(slot.quantizer is None for slot in bank.model.slots.values())


def test_losses_of_an_einsum() -> None:
    model, x = QuantizedModel(traced(Einsum())), tokens(3)
    (site,) = (each.name for each in model.traced.sites if each.macs)
    bank = Bank(model, x, CalibrationSettings(), {})
    hessian = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0))
    option = (site, "rhs", uniform(3))
    error = x @ (bank.quantizer(*option)(x.exp()) - x.exp()).mT
    expected = float((error.square() * hessian).sum()) / 6
    assert aph_losses(bank, [x], {site: hessian}, [option])[option] == pytest.approx(expected, rel=1e-4)


def test_losses_rank_like_the_kl(bank: Bank) -> None:
    """Better than by the mean squared error of the site's output, which knows nothing of what comes after."""
    model, batch = bank.model, images(4)
    options = [option for option in options_of(bank) if model.traced.sites_by_name[option[0]].macs]
    sites = list(dict.fromkeys(option[0] for option in options))
    found = aph_losses(bank, [batch], average_perturbation_hessian(model, [batch], sites), options)
    with torch.no_grad():
        log_p = model.run(batch)[0].log_softmax(-1)
        kl = {}
        for option in options:
            model.insert_({option[:2]: bank.module(*option)})
            log_q = model.run(batch)[0].log_softmax(-1)
            kl[option] = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
            model.remove_()
    pairs = list(itertools.combinations(options, 2))
    agreeing = sum((found[a] < found[b]) == (kl[a] < kl[b]) for a, b in pairs)
    assert agreeing > 0.8 * len(pairs)


def test_losses_that_are_not_finite(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    option, other = ("fc1", "input", uniform(3)), ("fc1", "input", uniform(6))
    module = bank.module

    def sometimes(site: str, operand: str, config: OperandConfig) -> nn.Module:
        return Infinite() if config.bits == 3 else module(site, operand, config)

    monkeypatch.setattr(bank, "module", sometimes)
    found = aph_losses(bank, [images(2)], {"fc1": torch.ones(1, TOKENS, 16)}, [option, other])
    assert found[option] == math.inf
    assert 0 < found[other] < math.inf


def test_losses_that_cannot_be_had(bank: Bank) -> None:
    option = ("fc1", "input", uniform(3))
    hessians = {"fc1": torch.ones(1, TOKENS, 16)}

    def batches() -> Iterator[Tensor]:
        yield from ()

    with pytest.raises(CalibrationError, match="no calibration images"):
        aph_losses(bank, batches(), hessians, [option])
    with pytest.raises(CalibrationError, match="no Hessian was computed for site 'fc1'"):
        aph_losses(bank, [images(2)], {}, [option])
    with pytest.raises(RecipeError, match="no operand 'lhs'"):
        aph_losses(bank, [images(2)], hessians, [("fc1", "lhs", uniform(3))])
