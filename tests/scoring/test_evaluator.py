"""Recipes scored on the bundled model: no quantizer is no discrepancy, and what goes wrong is named."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn

from autoq.calibration import Bank, CalibrationSettings
from autoq.errors import NonFiniteError, RecipeError
from autoq.graph.insert import FixedTensor, OperandKey, QuantizedModel
from autoq.graph.trace import TracedModel, trace
from autoq.recipe import OperandConfig, SiteConfig
from autoq.scoring import Accuracy, Evaluator, choose_batch_size, measure_accuracy
from autoq.scoring.session import CalibrationImages, Session
from tests.search.small_run import small_session


@pytest.fixture(scope="module")
def session() -> Session:
    return small_session()


@pytest.fixture(scope="module")
def images(session: Session) -> CalibrationImages:
    return session.calibration_images("digits", 16, seed=0)


@pytest.fixture(scope="module")
def bank(session: Session, images: CalibrationImages) -> Bank:
    return session.bank(lambda: images, images.sha256, CalibrationSettings(observer="min_max"))


@pytest.fixture
def evaluator(session: Session, bank: Bank, images: CalibrationImages) -> Evaluator:
    return Evaluator(session.model, bank, images.tensor)


def uniform(traced: TracedModel, bits: int) -> dict[str, SiteConfig]:
    return {
        site.name: {
            o.name: OperandConfig(scheme="uniform", bits=bits, granularity="channel" if o.is_weight else "tensor")
            for o in site.operands
        }
        for site in traced.sites
        if site.macs
    }


def test_an_empty_recipe_is_full_precision(evaluator: Evaluator) -> None:
    score = evaluator.evaluate({})
    assert (score.kl_nats, score.agreement_percent, score.sqnr_db, score.images) == (0.0, 100.0, math.inf, 16)


def test_more_bits_are_nearer(evaluator: Evaluator) -> None:
    scores = [evaluator.evaluate(uniform(evaluator.model.traced, bits)) for bits in (2, 4, 8, 16)]
    divergences = [score.kl_nats for score in scores]
    assert divergences == sorted(divergences, reverse=True)
    assert divergences[0] > 0.1
    assert 0 < divergences[2] < 1e-3
    assert [score.sqnr_db for score in scores] == sorted(score.sqnr_db for score in scores)


def test_slots_are_emptied_between_recipes(evaluator: Evaluator) -> None:
    sites = uniform(evaluator.model.traced, 2)
    head = {"head": sites["head"]}
    alone = evaluator.evaluate(head)
    assert evaluator.evaluate(sites).kl_nats > alone.kl_nats
    assert evaluator.evaluate(head) == alone
    assert evaluator.evaluate({}).kl_nats == 0


def test_the_batch_size_changes_nothing_but_rounding(session: Session, bank: Bank, images: CalibrationImages) -> None:
    sites = uniform(session.traced, 4)
    one, five = (Evaluator(session.model, bank, images.tensor, size).evaluate(sites) for size in (16, 5))
    assert five.kl_nats == pytest.approx(one.kl_nats, rel=1e-4)
    assert five.images == one.images == 16


def test_unknown_sites_and_operands(evaluator: Evaluator) -> None:
    config = OperandConfig(scheme="uniform", bits=4)
    with pytest.raises(RecipeError, match=r"no site 'blocks\.0\.mlp\.fcc1'\. Did you mean 'blocks\.0\.mlp\.fc1'\?"):
        evaluator.evaluate({"blocks.0.mlp.fcc1": {"input": config}})
    with pytest.raises(RecipeError, match="site 'head' has no operand 'lhs'; it has input, weight"):
        evaluator.evaluate({"head": {"lhs": config}})
    with pytest.raises(RecipeError, match="Did you mean 'uniform'"):
        evaluator.evaluate({"head": {"input": OperandConfig(scheme="unifrom", bits=4)}})
    assert evaluator.evaluate({}).kl_nats == 0, "a refused recipe leaves nothing in the slots"


class Broken(nn.Module):
    """A quantizer that yields ``value``."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value


class BrokenBank:
    """A bank whose quantizers at some operands are the given ones."""

    def __init__(self, bank: Bank, broken: Mapping[OperandKey, nn.Module]) -> None:
        self._bank, self._broken = bank, broken

    def apply_(self, sites: Mapping[str, SiteConfig]) -> None:
        self._bank.apply_(sites)
        self._bank.model.insert_({key: module for key, module in self._broken.items() if key[0] in sites})


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_quantizer_that_overflows_names_its_site(session: Session, bank: Bank, images: Any, value: float) -> None:
    broken = BrokenBank(bank, {(f"blocks.{n}.mlp.fc1", "input"): Broken(value) for n in (1, 2)})
    evaluator = Evaluator(session.model, cast(Bank, broken), images.tensor)
    with pytest.raises(NonFiniteError, match=r"first at site 'blocks\.1\.mlp\.fc1'") as caught:
        evaluator.evaluate(uniform(session.traced, 4))
    assert caught.value.site == "blocks.1.mlp.fc1"
    assert evaluator.evaluate({}).kl_nats == 0


def test_a_weight_that_overflows_names_its_site(session: Session, bank: Bank, images: CalibrationImages) -> None:
    weight = session.traced.weight("blocks.2.attn.proj") * math.inf
    broken = BrokenBank(bank, {("blocks.2.attn.proj", "weight"): FixedTensor(weight)})
    evaluator = Evaluator(session.model, cast(Bank, broken), images.tensor)
    with pytest.raises(NonFiniteError) as caught:
        evaluator.evaluate(uniform(session.traced, 8))
    assert caught.value.site == "blocks.2.attn.proj"


def test_a_model_that_is_not_finite_itself(bank: Bank) -> None:
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3)
    module.eval().blocks[1].attn.qkv.weight.data[0, 0] = math.nan
    model = QuantizedModel(trace(module, torch.zeros(2, 3, 16, 16)))
    with pytest.raises(NonFiniteError) as caught:
        Evaluator(model, bank, torch.randn(2, 3, 16, 16))
    assert caught.value.site == "blocks.1.attn.qkv"


def test_batches_are_powers_of_two_that_fit(session: Session) -> None:
    assert choose_batch_size(session.traced) == 128
    site = next(site for site in session.traced.sites if site.name == "blocks.0.mlp.fc1")
    for elements, expected in ((3 << 20, 2), (3 << 19, 4), ((3 << 19) + 1, 2), (100 << 20, 1)):
        large = dataclasses.replace(site.operand("input"), shape=(1, 1, elements))
        weight = dataclasses.replace(site.operand("weight"), shape=(1 << 15, 1 << 15))  # weights do not count
        sites = (dataclasses.replace(site, operands=(large, weight)),)
        assert choose_batch_size(dataclasses.replace(session.traced, sites=sites)) == expected


def test_accuracy_counts_the_labelled(session: Session) -> None:
    """Top-5 contains top-1; a model of ten classes whose head is zero knows nothing."""
    labelled = session.labelled_images("digits/calib")
    assert labelled is not None
    session.model.remove_()
    right = measure_accuracy(session.model, labelled.batches())
    assert right.images == labelled.count == 256
    assert 95 < right.top1_percent <= right.top5_percent <= 100
    assert right.top1_percent == 100 * round(2.56 * right.top1_percent) / 256
    wrong = measure_accuracy(session.model, ((x, (y + 1) % 10) for x, y in labelled.batches()))
    assert wrong.top1_percent < 5
    with pytest.raises(ValueError, match="no images"):
        measure_accuracy(session.model, [])


def test_accuracy_by_hand() -> None:
    class Constant:
        def run(self, x: Tensor) -> tuple[Tensor, ...]:
            return (torch.arange(8.0).repeat(len(x), 1),)

    seen: list[int] = []
    batches = [(torch.zeros(3, 1), torch.tensor([7, 6, 2])), (torch.zeros(1, 1), torch.tensor([3]))]
    accuracy = measure_accuracy(cast(QuantizedModel, Constant()), batches, seen.append)
    assert accuracy == Accuracy(top1_percent=25.0, top5_percent=75.0, images=4)
    assert seen == [3, 1]
