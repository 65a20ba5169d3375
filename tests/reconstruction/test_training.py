"""Training of one block: what is learned, by how much a step changes it, and what stays."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from autoq.graph.blocks import Block, find_blocks
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import State
from autoq.quantizers import UniformQuantizer
from autoq.quantizers.granularity import OperandLayout
from autoq.recipe import OperandConfig
from autoq.reconstruction.losses import WeightedSquaredError
from autoq.reconstruction.rounding import LearnedRounding
from autoq.reconstruction.settings import Protocol, ReconstructionSettings
from autoq.reconstruction.states import StateStore, find_layouts
from autoq.reconstruction.training import BlockData, Trained, _batch, _Steps, train_block
from autoq.scoring.solved_operands import SolvedOperands
from tests.reconstruction.small_model import A6, QUICK, TOKENS, W2, calibrated, images, sites_of, tiny_model

DATA = images(24)


@dataclass
class Case:
    """A block with its calibrated quantizers, data and loss."""

    model: QuantizedModel
    block: Block
    operands: SolvedOperands
    data: BlockData
    loss: WeightedSquaredError

    def error(self, operands: SolvedOperands) -> float:
        """The loss over all images."""
        device, every = torch.device("cpu"), slice(0, len(DATA))
        self.model.remove_()
        operands.insert_(self.model)
        with torch.no_grad():
            output = self.model.run_stages(self.block.stages, self.data.quantized.get(every, device))
            loss = float(self.loss(output, self.data.target.get(every, device), every))
        self.model.remove_()
        return loss

    def train(self, settings: ReconstructionSettings, learn_scales: bool = True) -> tuple[Trained, list[float]]:
        """What is learned, and the relative loss of each batch."""
        seen: list[tuple[int, float]] = []
        before = self.error(self.operands)
        trained = train_block(
            self.model,
            self.block,
            self.operands,
            self.data,
            self.loss,
            before,
            settings,
            learn_scales,
            lambda done, loss: seen.append((done, loss)),
        )
        self.model.remove_()
        assert [done for done, _ in seen] == list(range(1, settings.iterations + 1))
        return trained, [loss for _, loss in seen]


def case_of(weights: OperandConfig) -> Case:
    """The first transformer block, alone: its input is in full precision."""
    model = tiny_model()
    block = next(each for each in find_blocks(model) if each.name == "blocks.0")
    layouts = find_layouts(model, DATA[:1])
    state: State = (DATA,)
    with torch.no_grad():
        for index in range(block.first):
            state = model.run_stage(index, state)
        full = StateStore(layouts[block.first], len(DATA))
        full.put_(0, state)
        target = StateStore(layouts[block.last + 1], len(DATA))
        target.put_(0, model.run_stages(block.stages, state))
    operands = calibrated(model, sites_of(model, weights, A6), DATA)
    own = SolvedOperands({key: each for key, each in operands.quantizers.items() if key[0] in block.sites})
    return Case(model, block, own, BlockData(full, full, target), WeightedSquaredError(layouts[block.last + 1]))


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of(W2)


@pytest.fixture(scope="module")
def trained(case: Case) -> Trained:
    return case.train(QUICK)[0]


def is_weight(case: Case, key: tuple[str, str]) -> bool:
    return case.model.traced.sites_by_name[key[0]].operand(key[1]).is_weight


def test_the_block_loses_less_with_what_was_learned(case: Case, trained: Trained) -> None:
    learned = case.operands | SolvedOperands(trained.quantizers, trained.codes)
    assert case.error(learned) < 0.7 * case.error(case.operands)


def test_weights_get_codes_and_activations_get_scales(case: Case, trained: Trained) -> None:
    keys = set(case.operands.quantizers)
    assert set(trained.codes) == {key for key in keys if is_weight(case, key)}
    assert set(trained.quantizers) == keys - set(trained.codes)
    for key, codes in trained.codes.items():
        quantizer = case.operands.quantizers[key]
        scale, zero_point = quantizer.qparams()["scale"], quantizer.qparams()["zero_point"]
        exact = case.model.traced.weight(*key).detach() / scale + zero_point
        assert bool(((codes == exact.floor().clamp(0, 3)) | (codes == exact.ceil().clamp(0, 3))).all())
    assert not any(each.requires_grad for quantizer in trained.quantizers.values() for each in quantizer.buffers())


def test_scales_stay_as_calibrated_unless_they_are_learned(case: Case) -> None:
    trained, _ = case.train(replace(QUICK, iterations=2), learn_scales=False)
    assert trained.quantizers == {}
    assert trained.codes
    still, _ = case.train(replace(QUICK, iterations=2, scale_rate=0.0))
    for key, quantizer in still.quantizers.items():
        assert torch.equal(quantizer.qparams()["scale"], case.operands.quantizers[key].qparams()["scale"])


def test_a_step_is_a_share_of_the_scale(case: Case) -> None:
    """Adam's first step is as long as its rate, whatever the gradient."""
    trained, _ = case.train(replace(QUICK, iterations=1, scale_rate=0.01))
    for key, quantizer in trained.quantizers.items():
        before, after = (each.qparams()["scale"] for each in (case.operands.quantizers[key], quantizer))
        torch.testing.assert_close((after / before - 1).abs(), torch.full_like(before, 0.01), rtol=1e-2, atol=0)


def test_the_published_step(case: Case) -> None:
    """The loss as it is, a tenth of its sum over tokens, with the regulariser's sum; one rate for all scales."""
    settings = replace(
        QUICK, protocol="published", iterations=1, warm_up=0.0, scale_rate=1e-4, weight_rate=1e-3, regularization=0.01
    )
    seen: list[Tensor] = []
    take = _Steps.take_

    def taken(steps: _Steps, loss: Tensor, done: int) -> None:
        seen.append(loss.detach())
        take(steps, loss, done)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Steps, "take_", taken)
        trained, (relative,) = case.train(settings)
    tokens = next(entry.shape[1] for entry in case.data.target.layout if entry.is_learned_from)
    assert tokens == TOKENS
    assert seen[0].item() == pytest.approx(relative * case.error(case.operands) * tokens / 10, rel=1e-5)
    for key, quantizer in trained.quantizers.items():
        before, after = (each.qparams()["scale"] for each in (case.operands.quantizers[key], quantizer))
        torch.testing.assert_close((after - before).abs(), torch.full_like(before, 1e-4), rtol=1e-2, atol=0)


@pytest.mark.parametrize("protocol", ["autoq", "published"])
def test_published_gradients_are_those_of_values_clamped_after_rounding(case: Case, protocol: Protocol) -> None:
    """And what was learned is a quantizer as any other."""
    seen: set[bool] = set()
    gradient = UniformQuantizer._fake_quantize_with_gradient

    def watched(quantizer: UniformQuantizer, x: Tensor) -> Tensor:
        seen.add(quantizer.clamps_rounded)
        return gradient(quantizer, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UniformQuantizer, "_fake_quantize_with_gradient", watched)
        trained, _ = case.train(replace(QUICK, protocol=protocol, iterations=1))
    assert seen == {protocol == "published"}
    learned = [each for each in trained.quantizers.values() if isinstance(each, UniformQuantizer)]
    assert learned
    assert not any(each.clamps_rounded for each in learned)


def test_the_published_regulariser_is_a_sum() -> None:
    """Its gradient does not depend on how many weights there are; by default it does."""
    quantizer = UniformQuantizer(
        OperandConfig(scheme="uniform", bits=4),
        OperandLayout(2, 0),
        {"scale": torch.full((1, 1), 0.25), "zero_point": torch.full((1, 1), 8.0)},
    )
    pushed = {}
    for protocol in ("published", "autoq"):
        for size in (4, 400):
            rounding = LearnedRounding(torch.full((1, size), 0.3), quantizer)
            settings = replace(QUICK, protocol=protocol, iterations=1, warm_up=0.0, regularization=0.01)
            steps = _Steps({("layer", "weight"): rounding}, [], settings)
            steps.take_(0.0 * rounding.direction.sum(), 0)
            assert rounding.direction.grad is not None
            pushed[protocol, size] = rounding.direction.grad[0, 0].item()
    assert pushed["published", 4] == pytest.approx(pushed["published", 400])
    assert pushed["published", 4] == pytest.approx(4 * pushed["autoq", 4]) == pytest.approx(400 * pushed["autoq", 400])


def test_a_published_batch_has_no_image_twice() -> None:
    published = replace(QUICK, protocol="published", batch=100)
    for settings in (published, replace(QUICK, batch=100)):
        drawn = [_batch(24, settings, torch.Generator().manual_seed(seed)).tolist() for seed in range(3)]
        assert all(len(each) == 24 for each in drawn)
        assert all(len(set(each)) == 24 for each in drawn) == settings.is_published
        assert drawn[0] != drawn[1]


def steps_of(scale: Tensor, settings: ReconstructionSettings, sign: float) -> list[float]:
    """A scale after each step down a gradient of one sign."""
    steps, seen = _Steps({}, [scale], settings), []
    for done in range(settings.iterations):
        steps.take_(sign * scale.sum(), done)
        seen.append(scale.item())
    return seen


def test_steps_of_scales_follow_half_a_cosine() -> None:
    """Adam steps by its rate where the gradient is the same each time."""
    scale = torch.tensor([2.0], requires_grad=True)
    seen = steps_of(scale, replace(QUICK, iterations=8, scale_rate=0.01), -1.0)
    rates = [0.01 * (1 + math.cos(math.pi * done / 8)) / 2 for done in range(8)]
    assert seen == pytest.approx([2 * (1 + rate) for rate in itertools.accumulate(rates)], rel=1e-5)


def test_scales_stay_above_a_tenth_of_what_they_were() -> None:
    scale = torch.tensor([2.0], requires_grad=True)
    seen = steps_of(scale, replace(QUICK, iterations=8, scale_rate=0.5), 1.0)
    assert seen[0] == pytest.approx(1.0)
    assert min(seen) == seen[-1] == pytest.approx(0.2)


def test_signs_have_no_rounding_to_learn() -> None:
    binary = case_of(OperandConfig(scheme="uniform", bits=1, granularity="channel", symmetric=True))
    trained, _ = binary.train(replace(QUICK, iterations=2))
    assert trained.codes == {}
    assert trained.quantizers


def test_seeds_decide_batches_and_drops(case: Case) -> None:
    settings = replace(QUICK, iterations=3)
    first, losses = case.train(settings)
    again, same = case.train(settings)
    _, other = case.train(replace(settings, seed=1))
    assert losses == same
    assert losses != other
    assert all(torch.equal(codes, again.codes[key]) for key, codes in first.codes.items())


def test_the_calibrated_quantizers_are_not_changed(case: Case, trained: Trained) -> None:
    del trained
    fresh = case_of(W2).operands
    for key, quantizer in case.operands.quantizers.items():
        expected = fresh.quantizers[key].qparams()
        assert all(torch.equal(value, expected[name]) for name, value in quantizer.qparams().items())
