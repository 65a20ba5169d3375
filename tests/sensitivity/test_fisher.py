from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, fx, nn

from autoq.calibration import Bank, CalibrationSettings
from autoq.errors import CalibrationError, RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.recipe import OperandConfig
from autoq.scoring import Evaluator
from autoq.scoring.outputs import fitted_task
from autoq.sensitivity import fisher
from autoq.sensitivity.fisher import FisherSettings, fisher_losses
from autoq.sensitivity.measure import SensitivityTable, measure_additive_sensitivities
from autoq.sensitivity.proxies import FISHER
from autoq.tasks import DenseTask
from tests.calibration.samples import Block, block_model, images
from tests.graph.small import tokens
from tests.tasks.small_dense import dense_model, pictures

Option = tuple[str, str, OperandConfig]
EXACT = FisherSettings(probes=16)
"""As many orthogonal probes as there are classes, or more."""


class TwoLayers(nn.Module):
    """Logits are a linear function of the first layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.second = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Pooled(nn.Module):
    """A block whose logits have no positions."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x).mean(1).tanh())


class Shared(nn.Module):
    """One tensor feeds two layers and the residual."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.left = nn.Linear(8, 8)
        self.right = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).sin()
        return (x + self.left(x) * self.right(x)).mean(1)


class Windows(nn.Module):
    """A layer whose input has three windows of an image in the batch axis, or not."""

    def __init__(self, folded: bool) -> None:
        super().__init__()
        self.folded = folded
        self.layer = nn.Linear(8, 4)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.reshape(-1, 2, 8) if self.folded else x
        return self.head(self.layer(windows).reshape(x.shape[0], 24).sigmoid())


class TokensFirst(nn.Module):
    """Images are along the second axis of the layer's input, or interleaved with tokens along the first."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order = order
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if self.order == "images first":
            return self.layer(x.tanh()).sum(1)
        y = x.transpose(0, 1).tanh()
        if self.order == "interleaved":
            return self.layer(y.reshape(-1, 8)).reshape(6, -1, 8).sum(0)
        return self.layer(y).sum(0)


class Einsum(nn.Module):
    """Products whose operands are in a list; one has a parameter, and its result the images last."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bic,bjc->bij", x, x.cos())
        return torch.einsum("bij,kj->kib", y.tanh(), self.mix).permute(2, 1, 0)


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 0


def bank_of(make: Callable[[], nn.Module], batch: Tensor) -> Bank:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = QuantizedModel(trace(make().eval(), batch.float())).to(batch.dtype)
    return Bank(model, batch, CalibrationSettings(), {}, batch_size=4)


def options_of(bank: Bank, bits: tuple[int, ...] = (3, 6)) -> list[Option]:
    return [
        (site.name, operand.name, OperandConfig(scheme="uniform", bits=width))
        for site, operand in bank.model.traced.operands()
        for width in bits
    ]


class Moved(fx.Interpreter):
    """Adds a multiple of an option's error to its site's output."""

    def __init__(self, bank: Bank, option: Option, step: float) -> None:
        super().__init__(bank.model.traced.graph_module)
        self.edge = bank.model.traced.edges[option[:2]]
        self.quantizer = bank.quantizer(*option)
        self.step = step

    def run_node(self, n: fx.Node) -> object:
        if n.name != self.edge.node:
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        quantized = list(args)
        if self.edge.item is None:
            quantized[self.edge.index] = self.quantizer(args[self.edge.index])
        else:
            quantized[self.edge.index] = list(args[self.edge.index])
            quantized[self.edge.index][self.edge.item] = self.quantizer(args[self.edge.index][self.edge.item])
        output = n.target(*args, **kwargs)  # type: ignore[operator]
        return output + self.step * (n.target(*quantized, **kwargs) - output)  # type: ignore[operator]


def slow_reference(bank: Bank, batch: Tensor, option: Option) -> float:
    """½ eᵀ Jᵀ F J e, with J e by differences along the error of the option's site's output."""
    size = 1e-4
    with torch.no_grad():
        before, at, after = (Moved(bank, option, step).run(batch) for step in (-size, 0.0, size))
    change, p = (after - before) / (2 * size), at.softmax(-1)
    centred = change - (p * change).sum(-1, keepdim=True)
    return 0.5 * float((p * centred.square()).sum(-1).mean())


@torch.no_grad()
def test_closed_form() -> None:
    batch = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    bank = bank_of(TwoLayers, batch)
    option = ("first", "input", OperandConfig(scheme="uniform", bits=3))
    first, second = (bank.model.traced.weight(name).double() for name in ("first", "second"))
    e = (bank.quantizer(*option)(batch) - batch).double() @ first.T @ second.T
    p = bank.model.run(batch)[0].double().softmax(-1)
    expected = 0.5 * float(sum(v @ (q.diag() - q.outer(q)) @ v for v, q in zip(e, p, strict=True))) / 6
    assert fisher_losses(bank, [batch], [option], FisherSettings(probes=4))[option] == pytest.approx(expected, rel=1e-4)
    many = fisher_losses(bank, [batch.repeat(500, 1)], [option], FisherSettings(probes=1))[option]
    assert many == pytest.approx(expected, rel=0.1)
    assert many != pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("make", [Pooled, Block, Einsum, Shared], ids=["pooled", "detector", "einsum", "shared"])
def test_slow_reference(make: Callable[[], nn.Module]) -> None:
    batch = (images if make in (Pooled, Block) else tokens)(3).double()
    bank = bank_of(make, batch)
    options = options_of(bank)
    has_positions = make in (Block, Einsum)  # which are independent of each other: exact for infinitely many probes
    if has_positions:  # 16,384 probes of each image: 256 times a batch that holds it 64 times
        found = fisher_losses(bank, [batch.repeat(64, *[1] * (batch.ndim - 1))], options, FisherSettings(256, seed=1))
    else:
        found = fisher_losses(bank, [batch], options, EXACT)
    assert list(found) == options
    for option in options:
        expected = slow_reference(bank, batch, option)
        assert found[option] == pytest.approx(expected, rel=0.02 if has_positions else 1e-4, abs=1e-12), option
    assert max(found.values()) > 1e-5


def test_windows_in_the_batch_axis() -> None:
    found = []
    for folded in (True, False):
        bank = bank_of(lambda folded=folded: Windows(folded), tokens(4))
        losses = fisher_losses(bank, [tokens(4)], options_of(bank), FisherSettings(probes=2))
        found.append(list(losses.values()))
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert min(found[0]) > 0


@pytest.mark.parametrize("order", ["images first", "tokens first", "interleaved"])
@pytest.mark.parametrize("count", [4, 6])
def test_images_elsewhere_than_first(order: str, count: int) -> None:
    bank = bank_of(lambda: TokensFirst(order), tokens(count).double())
    found = fisher_losses(bank, [tokens(count).double()], options_of(bank))
    for option, loss in found.items():
        assert loss == pytest.approx(slow_reference(bank, tokens(count).double(), option), rel=1e-4)


def test_division_into_batches_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = images(6)
    bank = bank_of(Pooled, batch)
    options = options_of(bank)
    settings = FisherSettings(probes=3)
    at_once = fisher_losses(bank, [batch], options, settings)
    seen: list[int] = []
    streamed = fisher_losses(bank, iter(torch.split(batch, [1, 3, 2])), options, settings, seen.append)
    assert seen == [1, 3, 2]
    monkeypatch.setattr(fisher, "images_at_once", lambda _: 1)
    seen.clear()
    one_by_one = fisher_losses(bank, [batch], options, settings, seen.append)
    assert seen == [1] * 6
    for other in (streamed, one_by_one):
        assert list(other.values()) == pytest.approx(list(at_once.values()), rel=1e-3)


@pytest.mark.parametrize(("count", "first"), [(40, 16), (7, 3), (1, 0)])
def test_a_first_table_comes_from_the_first_few_images(count: int, first: int) -> None:
    batch = tokens(count)
    bank = bank_of(Pooled, batch)
    options, told, seen = options_of(bank), list[SensitivityTable](), list[int]()
    arguments = (FISHER, bank, batch, options, lambda done, _: seen.append(done))
    table = measure_additive_sensitivities(*arguments, on_first=told.append)
    assert seen == sorted(set(seen))
    assert seen[-1] == count, "no image is measured twice"
    whole = measure_additive_sensitivities(*arguments)
    assert table.images == whole.images == count
    for option in options:
        assert table.loss(*option) == pytest.approx(whole.loss(*option), rel=1e-5)
    if not first:
        assert told == []
        return
    [early] = told
    assert early.images == first
    expected = fisher_losses(bank, [batch[:first]], options, FisherSettings(seed=bank.settings.seed))
    assert {row.option: row.loss for row in early.rows} == pytest.approx(expected, rel=1e-5)


def test_seeds_and_choice_of_options() -> None:
    batch = images(4)
    bank = bank_of(Pooled, batch)
    options = options_of(bank)
    one, same, other = (fisher_losses(bank, [batch], options, FisherSettings(2, seed)) for seed in (0, 0, 1))
    assert one == same
    assert one != other
    chosen = options[::-5]
    alone = fisher_losses(bank, [batch], chosen, FisherSettings(2, 0))
    assert list(alone) == chosen
    assert list(alone.values()) == pytest.approx([one[option] for option in chosen], rel=1e-4)


@torch.no_grad()
def test_kl_of_small_errors() -> None:
    batch = images(4).double()
    bank = bank_of(Pooled, batch)
    options = options_of(bank, (8,))
    found = fisher_losses(bank, [batch], options, EXACT)
    log_p = bank.model.run(batch)[0].log_softmax(-1)
    for option in options:
        bank.model.insert_({option[:2]: bank.module(*option)})
        log_q = bank.model.run(batch)[0].log_softmax(-1)
        bank.model.remove_()
        kl = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
        assert found[option] == pytest.approx(kl, rel=0.15), option


def test_leaves_nothing_behind() -> None:
    batch = images(2)
    bank = bank_of(Pooled, batch)
    model, options = bank.model, options_of(bank)
    model.insert_({options[0][:2]: nn.Identity()})
    flags = [parameter.requires_grad for parameter in model.parameters()]
    found = fisher_losses(bank, [batch], options)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(slot.quantizer is None for slot in model.slots.values())
    assert not batch.requires_grad
    with torch.inference_mode():
        assert fisher_losses(bank, [images(2)], options) == found


def test_what_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = bank_of(Pooled, images(2))
    module = bank.module

    def sometimes(site: str, operand: str, config: OperandConfig) -> nn.Module:
        return Infinite() if config.bits == 3 else module(site, operand, config)

    options = options_of(bank)
    monkeypatch.setattr(bank, "module", sometimes)
    found = fisher_losses(bank, [images(2)], options)
    for option in options:
        assert (found[option] == math.inf) == (option[2].bits == 3), option
    with torch.no_grad():
        bank.model.traced.weight("head").fill_(math.nan)
    with pytest.raises(CalibrationError, match="logits have NaN"):
        fisher_losses(bank, [images(2)], options)


def test_derivatives_that_are_not_finite() -> None:
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return (0 * self.layer(x)).sqrt().sum(1)

    bank = bank_of(Root, tokens(2))
    with pytest.raises(CalibrationError, match="derivatives at 'layer' have NaN"):
        fisher_losses(bank, [tokens(2).abs()], options_of(bank))


def test_what_cannot_be_had() -> None:
    bank = Bank(block_model(), images(4), CalibrationSettings(), {})
    option = options_of(bank)[0]

    def batches() -> Iterator[Tensor]:
        yield from ()

    for empty in (batches(), [images(2)[:0]]):
        with pytest.raises(CalibrationError, match="no calibration images"):
            fisher_losses(bank, empty, [option])
    with pytest.raises(RecipeError, match="no operand 'lhs'"):
        fisher_losses(bank, [images(2)], [("fc1", "lhs", option[2])])
    with pytest.raises(CalibrationError, match="0 probes"):
        FisherSettings(probes=0)
    assert fisher_losses(bank, [images(2)], []) == {}


def test_a_dense_models_losses_are_close_to_measured_ones() -> None:
    """KL of Gaussians is quadratic in the output's error: what is left is the model's curvature, and few probes."""
    batch = pictures(6)
    model = QuantizedModel(trace(dense_model(), batch))
    task = fitted_task(DenseTask(output="depth"), model, [batch])
    bank = Bank(model, batch, CalibrationSettings(), {}, batch_size=4)
    options = options_of(bank, (5, 6))
    found = fisher_losses(bank, [batch], options, FisherSettings(probes=64), task=task)
    evaluator = Evaluator(model, bank, batch, task=task)
    measured = {key: evaluator.evaluate({key[0]: {key[1]: key[2]}}).kl_nats for key in options}
    ratios = [found[key] / measured[key] for key in options if measured[key] > 0]
    assert len(ratios) > 30
    assert min(ratios) > 0.5
    assert max(ratios) < 2
    head = [found[key] / measured[key] for key in options if key[0] == "head"]
    assert head == pytest.approx([1] * len(head), rel=0.25)  # linear in the output: probes alone are to blame
