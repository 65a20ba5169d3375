"""Recipes scored on the bundled model: no quantizer is no discrepancy, and what goes wrong is named."""

from __future__ import annotations

import dataclasses
import math
import random
import weakref
from collections.abc import Mapping
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from autoq.calibration import Bank, CalibrationSettings
from autoq.errors import NonFiniteError, RecipeError, RunError
from autoq.graph.insert import FixedTensor, OperandKey, QuantizedModel
from autoq.graph.trace import TracedModel, trace
from autoq.methods.bit_widths import BitWidths
from autoq.methods.fq_vit import FqVit
from autoq.optimization.space import ResolvedSpace, parse_space, resolve_space
from autoq.recipe import OperandConfig, SiteConfig
from autoq.runs.images import CalibrationImages
from autoq.runs.session import Session
from autoq.scoring import Discrepancy, Evaluator, Score, choose_batch_size
from tests.graph.small import traced
from tests.runs.small_run import SPACE, small_session


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

    def __init__(self, value: float, config: OperandConfig) -> None:
        super().__init__()
        self.value, self.config = value, config

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
    sites = uniform(session.traced, 4)
    names = [f"blocks.{n}.mlp.fc1" for n in (1, 2)]
    broken = BrokenBank(bank, {(name, "input"): Broken(value, sites[name]["input"]) for name in names})
    evaluator = Evaluator(session.model, cast(Bank, broken), images.tensor)
    with pytest.raises(NonFiniteError, match=r"first at site 'blocks\.1\.mlp\.fc1'") as caught:
        evaluator.evaluate(sites)
    assert caught.value.site == "blocks.1.mlp.fc1"
    assert evaluator.evaluate({}).kl_nats == 0


def test_a_weight_that_overflows_names_its_site(session: Session, bank: Bank, images: CalibrationImages) -> None:
    weight = session.traced.weight("blocks.2.attn.proj") * math.inf
    sites = uniform(session.traced, 8)
    fixed = FixedTensor(weight, sites["blocks.2.attn.proj"]["weight"])
    evaluator = Evaluator(
        session.model, cast(Bank, BrokenBank(bank, {("blocks.2.attn.proj", "weight"): fixed})), images.tensor
    )
    for _ in range(3):  # from the first stage, and from a kept one
        with pytest.raises(NonFiniteError) as caught:
            evaluator.evaluate(sites)
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


# Recipes that begin alike.

PHOTOS, BATCH = 12, 5
"""In three batches."""


@pytest.fixture(scope="module")
def space(session: Session) -> ResolvedSpace:
    """Uniform codes, instance groups and AdaLog at two bit-widths."""
    return resolve_space(parse_space(SPACE.replace("[3, 4, 6]", "[3, 6]")), session.traced.sites)


def slow_score(bank: Bank, images: Tensor, sites: Mapping[str, SiteConfig]) -> Score:
    """Of a recipe, with the whole model run on every batch, which is its own copy."""
    discrepancy, model = Discrepancy(), bank.model
    with torch.inference_mode():
        model.remove_()
        expected = [model.run(batch.clone())[0] for batch in torch.split(images, BATCH)]
        bank.apply_(sites)
        for reference, batch in zip(expected, torch.split(images, BATCH), strict=True):
            discrepancy.add((reference,), (model.run(batch.clone())[0],))
    return discrepancy.score()


@pytest.mark.parametrize("cache_bytes", [1 << 30, 150_000, 9_000, 0])
def test_reuse_changes_no_bit(
    session: Session, bank: Bank, images: CalibrationImages, space: ResolvedSpace, cache_bytes: int
) -> None:
    photos, rng = images.tensor[:PHOTOS], random.Random(cache_bytes)
    kept = Evaluator(session.model, bank, photos, BATCH, cache_bytes=cache_bytes)
    assignments = [space.uniform_assignment(3), space.uniform_assignment(6, 4)]
    for number in (1, 1, 2, 4, 1, 2, 8, 1):
        child = dict(rng.choice(assignments[-3:]))
        for decision in rng.sample(space.decisions, number):
            child[decision.name] = rng.choice(decision.choices)
        assignments.append(child)
    recipes = [space.sites_for(assignment) for assignment in assignments]
    recipes += [{}, {"head": recipes[0]["head"]}]
    expected = [slow_score(bank, photos, recipe) for recipe in recipes]
    for index in [*range(len(recipes)), *rng.choices(range(len(recipes)), k=14)]:
        assert kept.evaluate(recipes[index]) == expected[index]
        assert kept.reuse.bytes_held <= kept.reuse.most_bytes_held <= cache_bytes
    stages = len(session.model.stages) * 3 * (len(recipes) + 14)
    assert kept.reuse.stages_run + kept.reuse.stages_reused == stages
    assert kept.reuse.reused_share > (0.2 if cache_bytes >= 1 << 30 else 0) or cache_bytes < 100_000
    assert (kept.reuse.bytes_held > 0) == (cache_bytes > 0)


def test_integer_operations_depend_on_what_lies_stages_later(
    session: Session, bank: Bank, images: CalibrationImages
) -> None:
    """A LayerNorm rounds to the steps of what it feeds: the last one feeds the head, in another stage."""
    photos = images.tensor[:PHOTOS]
    model = session.model
    assert model.stage_of_operation["norm"] < model.stage_of["head", "input"]
    base = FqVit().sites(session.traced, BitWidths.parse("w8a8"))
    coarse = OperandConfig(scheme="uniform", bits=3)
    recipes = [base, base | {"head": base["head"] | {"input": coarse}}, base | {"norm": {}}]
    plain_head = {site: operands for site, operands in base.items() if site != "norm"}
    recipes += [plain_head, plain_head | {"head": {"input": coarse}}]
    expected = [slow_score(bank, photos, recipe) for recipe in recipes]
    assert len({score.kl_nats for score in expected}) == 4, "an empty site is as good as none"
    evaluator = Evaluator(model, bank, photos, BATCH)
    for index in (0, 0, 1, 0, 1, 2, 2, 3, 4, 2, 0, 1, 4):
        assert evaluator.evaluate(recipes[index]) == expected[index]
    assert evaluator.reuse.stages_reused > 0


class OverwritesImages(nn.Module):
    """Changes what it is given, and the output of a layer that may be kept."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x[:, 0].mul_(2)
        y = self.first(x)
        y[:, 1].add_(1)
        return self.third(self.second(y)).mean(1)


class OverwritesBranch(OverwritesImages):
    """Has a view and what it is a view of at a cut, and overwrites the one to read the other."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        top = y[:, :3]
        z = self.second(y)
        top.mul_(z.mean())
        return (self.third(y) + y).sum(1)


class KeepsSizes(OverwritesImages):
    """Reads a size at the start that is needed at the end, overwriting nothing."""

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        y = self.second(functional.gelu(self.first(x)))
        return self.third(y).reshape(count, -1)[:, :9]


def small_bank(make: type[nn.Module]) -> tuple[Bank, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = QuantizedModel(traced(make()))
    photos = torch.randn(PHOTOS, 6, 8, generator=torch.Generator().manual_seed(1))
    bank = Bank(model, photos.clone, CalibrationSettings(observer="min_max"), {})
    for bits in (3, 8):
        bank.apply_(uniform(model.traced, bits))  # before anything is overwritten
    return bank, photos


@pytest.mark.parametrize("make", [OverwritesImages, OverwritesBranch, KeepsSizes])
def test_nothing_that_is_kept_is_overwritten(make: type[nn.Module]) -> None:
    bank, photos = small_bank(make)
    three, eight = (uniform(bank.model.traced, bits) for bits in (3, 8))
    recipes = [three, eight, three | {"third": eight["third"]}, eight | {"second": three["second"]}, {}]
    before = photos.clone()
    expected = [slow_score(bank, photos, recipe) for recipe in recipes]
    evaluator = Evaluator(bank.model, bank, photos, BATCH)
    for index in (4, 0, 0, 0, 2, 2, 1, 1, 3, 3, 4, 1, 0, 4):
        assert evaluator.evaluate(recipes[index]) == expected[index]
    assert torch.equal(photos, before)
    assert evaluator.reuse.stages_reused > 0


def test_states_hold_sizes() -> None:
    bank, photos = small_bank(KeepsSizes)
    state = bank.model.run_stage(0, (photos,))
    assert any(not isinstance(leaf, Tensor) for leaf in state)


def test_a_recipe_without_prospects_is_stopped_after_the_first_batch(
    session: Session, bank: Bank, images: CalibrationImages
) -> None:
    sites, photos = uniform(session.traced, 4), images.tensor[:PHOTOS]
    evaluator = Evaluator(session.model, bank, photos, BATCH)
    whole = evaluator.evaluate(sites)
    first = Evaluator(session.model, bank, photos[:BATCH], BATCH).evaluate(sites)
    asked: list[Score] = []
    stopped = evaluator.evaluate(sites, lambda score: bool(asked.append(score)))
    assert stopped == first
    assert (stopped.images, whole.images, evaluator.images) == (BATCH, PHOTOS, PHOTOS)
    assert evaluator.evaluate(sites, lambda score: not asked.append(score)) == whole
    assert asked == [first, first], "asked once an evaluation"


def test_with_one_batch_there_is_nothing_to_stop(session: Session, bank: Bank, images: CalibrationImages) -> None:
    def refuse(score: Score) -> bool:
        raise AssertionError(score)

    evaluator = Evaluator(session.model, bank, images.tensor, 16)
    assert evaluator.evaluate(uniform(session.traced, 4), refuse).images == 16


def test_slots_that_hold_something_else_are_an_error(session: Session, bank: Bank, images: CalibrationImages) -> None:
    """A quantizer too few, one too many, another one, and one in place of none."""
    three, four = (uniform(session.traced, bits) for bits in (3, 4))
    head = OperandConfig(scheme="uniform", bits=8)
    key = ("head", "input")
    for module in (bank.module(*key, head), FixedTensor(torch.zeros(1))):
        broken = BrokenBank(bank, {key: module})
        evaluator = Evaluator(session.model, cast(Bank, broken), images.tensor)
        with pytest.raises(RunError, match="not those of the recipe"):
            evaluator.evaluate(four)
        with pytest.raises(RunError, match="not those of the recipe"):
            evaluator.evaluate({"head": {"weight": three["head"]["weight"]}})
        assert evaluator.evaluate({"blocks.0.mlp.fc1": four["blocks.0.mlp.fc1"]}).images == 16

    class Forgetful:
        def apply_(self, sites: Mapping[str, SiteConfig]) -> None:
            bank.apply_({site: operands for site, operands in sites.items() if site != "head"})

    evaluator = Evaluator(session.model, cast(Bank, Forgetful()), images.tensor)
    with pytest.raises(RunError, match="an error in autoq"):
        evaluator.evaluate(four)


def test_empty_sites_are_no_sites(evaluator: Evaluator) -> None:
    assert evaluator.evaluate({"head": {}}).kl_nats == 0


def test_candidates_in_bfloat16(session: Session, bank: Bank, images: CalibrationImages) -> None:
    sites = uniform(session.traced, 4)
    single = Evaluator(session.model, bank, images.tensor, BATCH)
    half = Evaluator(session.model, bank, images.tensor, BATCH, autocast=torch.bfloat16)
    for (one,), (other,) in zip(half._reference, single._reference, strict=True):
        assert torch.equal(one, other)
        assert one.dtype == torch.float32
    expected, found = single.evaluate(sites), half.evaluate(sites)
    assert found != expected
    assert found.kl_nats == pytest.approx(expected.kl_nats, rel=0.5)
    nothing = half.evaluate({})
    assert 0 < nothing.kl_nats < 0.01 * expected.kl_nats
    assert 25 < nothing.sqnr_db < 70
    assert half.evaluate(sites) == found
    assert single.evaluate({}).kl_nats == 0


def test_overflow_in_half_precision_names_its_site(session: Session, bank: Bank, images: CalibrationImages) -> None:
    """In single precision the same recipe is finite: the site has to be looked for in half precision too."""
    config = OperandConfig(scheme="uniform", bits=8, granularity="channel")
    large = FixedTensor(session.traced.weight("blocks.1.mlp.fc1") * 1e7, config)
    broken = BrokenBank(bank, {("blocks.1.mlp.fc1", "weight"): large})
    sites = {"blocks.1.mlp.fc1": {"weight": config}}
    assert math.isfinite(Evaluator(session.model, cast(Bank, broken), images.tensor).evaluate(sites).kl_nats)
    evaluator = Evaluator(session.model, cast(Bank, broken), images.tensor, autocast=torch.float16)
    with pytest.raises(NonFiniteError, match=r"first at site 'blocks\.1\.mlp\.fc1'"):
        evaluator.evaluate(sites)


def test_a_weight_that_stays_is_not_quantized_again(session: Session, bank: Bank, images: CalibrationImages) -> None:
    """Nor is another one taken for it, or one kept that no slot holds."""
    evaluator = Evaluator(session.model, bank, images.tensor)
    three, four = (uniform(session.traced, bits) for bits in (3, 4))
    slot = session.model.slots["head", "weight"]

    def standing(sites: Mapping[str, SiteConfig]) -> nn.Module | None:
        evaluator.apply_(sites)
        return slot.quantizer

    first = standing(three)
    assert first is not None
    assert standing(four | {"head": three["head"]}) is first
    other = standing(four)
    assert isinstance(first, FixedTensor)
    assert isinstance(other, FixedTensor)
    assert not torch.equal(first.value, other.value)
    gone = weakref.ref(other)
    del other
    evaluator.apply_({})
    assert gone() is None
