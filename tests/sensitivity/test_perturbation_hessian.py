from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from autoq.errors import CalibrationError, RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.sensitivity import perturbation_hessian
from autoq.sensitivity.perturbation_hessian import (
    PerturbationSettings,
    average_perturbation_hessian,
    hessian_loss,
    stage_hessians,
)
from tests.calibration.samples import CHANNELS, TOKENS, Block, block_model, images
from tests.graph.small import tokens, traced
from tests.sensitivity.seeded import seeded

ONES = PerturbationSettings(direction="ones")


class TwoLayers(nn.Module):
    """Logits are a linear function of the first layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 5)
        self.second = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


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


class Queries(nn.Module):
    """A layer that no image reaches, but which logits depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(3, 8))
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.query(self.queries.expand(x.shape[0], -1, -1))
        return (queries @ self.key(x).mT).mean(2)


class Regions(nn.Module):
    """Pools a region of a convolution's output by an operation of torchvision without a second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x)
        first = torch.arange(x.shape[0], device=x.device).to(x).unsqueeze(1)
        boxes = torch.cat([first, x.new_tensor([[0.0, 0.0, 4.0, 4.0]]).expand(x.shape[0], 4)], 1)
        return self.head(roi_align(features, boxes, 2).flatten(1))


class TokensFirst(nn.Module):
    """Images are along the second axis of the layer's input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).mean(0)


def two_layers() -> tuple[QuantizedModel, Tensor, TwoLayers]:
    module = seeded(TwoLayers)
    assert isinstance(module, TwoLayers)
    batch = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    return QuantizedModel(trace(module, batch)), batch, module


def closed_form(module: TwoLayers, batch: Tensor, temperature: float) -> Tensor:
    """The Hessian of each image's KL with respect to the first layer's output, times T²: Wᵀ (diag(p) − p pᵀ) W."""
    weight = module.second.weight.double()
    p = (module(batch).double() / temperature).softmax(-1)
    return torch.stack([weight.T @ (q.diag() - q.outer(q)) @ weight for q in p]).detach()


def from_tap(block: Block, x: Tensor, site: str | None, change: Tensor | float) -> tuple[Tensor, Tensor]:
    """The block written out: logits when a site's output is changed, and that output."""
    tapped: list[Tensor] = []

    def tap(name: str, value: Tensor) -> Tensor:
        if name != site:
            return value
        tapped.append((value + change).detach().requires_grad_())
        return tapped[0]

    def layer(name: str, value: Tensor) -> Tensor:
        return tap(name, getattr(block, name)(value))

    mixed = layer("qkv", layer("norm", x)).reshape(len(x), TOKENS, 3, 2, CHANNELS // 2)
    q, k, v = mixed.permute(2, 0, 3, 1, 4)
    attention = tap("softmax", tap("qk", q @ k.transpose(-2, -1)).softmax(-1))
    x = tap("residual", x + tap("av", attention @ v).transpose(1, 2).reshape(len(x), TOKENS, CHANNELS))
    logits = tap("logits", x + layer("fc2", torch.nn.functional.gelu(layer("fc1", x))))
    return logits, tapped[0] if tapped else logits


def published(x: Tensor, site: str, temperature: float, delta: float = 1e-6) -> Tensor:
    """The formula as it stands in the paper, in double precision, over 2 δ and times T²."""
    block = seeded(Block).double()
    assert isinstance(block, Block)
    expected = (from_tap(block, x, None, 0.0)[0] / temperature).softmax(-1).detach()
    gradients = []
    for change in (delta, -delta):
        logits, leaf = from_tap(block, x, site, change)
        log_q = (logits / temperature).log_softmax(-1)
        kl = (expected * (expected.log() - log_q)).sum(-1).mean(1).sum()
        gradients.append(torch.autograd.grad(kl, leaf)[0])
    return (gradients[0] - gradients[1]).abs().mean(0) * temperature**2 / (2 * delta)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_closed_form(temperature: float) -> None:
    model, batch, module = two_layers()
    settings = PerturbationSettings(temperature, "ones")
    found = average_perturbation_hessian(model, [batch], ["first", "second"], settings)
    expected = closed_form(module, batch, temperature).sum(-1).abs().mean(0)
    torch.testing.assert_close(found["first"], expected.float().unsqueeze(0))
    # The same number for every logit changes no probability.
    torch.testing.assert_close(found["second"], torch.zeros(1, 3), atol=1e-6, rtol=0)


def test_random_signs() -> None:
    model, batch, module = two_layers()
    hessians = closed_form(module, batch, 20.0)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=5)), dtype=torch.float64)
    drawn = set()
    for image, hessian in zip(batch, hessians, strict=True):
        for seed in range(6):
            settings = PerturbationSettings(seed=seed)
            found = average_perturbation_hessian(model, [image.unsqueeze(0)], ["first"], settings)["first"]
            distance = ((signs @ hessian).abs() - found).abs().amax(1)
            assert distance.min() < 1e-6
            drawn.add(int(distance.argmin()))
    assert len(drawn) > 3  # that of s is also that of −s


def test_each_image_has_signs_of_its_own() -> None:
    model, batch, _ = two_layers()
    same = batch[:1].expand(8, -1)
    one, several = (average_perturbation_hessian(model, [x], ["first"])["first"] for x in (same[:1], same))
    assert not torch.allclose(one, several)
    ones, all_ones = (average_perturbation_hessian(model, [x], ["first"], ONES)["first"] for x in (same[:1], same))
    torch.testing.assert_close(ones, all_ones)


@pytest.mark.parametrize("temperature", [2.0, 20.0])
def test_attention_block_by_finite_differences(temperature: float) -> None:
    model = block_model().double()
    batch = images(3).double()
    norm, softmax = (site.name for site in model.traced.sites if site.op in ("layer_norm", "softmax"))
    names = {norm: "norm", "qkv": "qkv", softmax: "softmax", "fc1": "fc1", "fc2": "fc2"}
    names |= {site.name: site.name.rpartition(".")[2] for site in model.traced.sites if site.op == "matmul"}
    assert sorted(names) == sorted(site.name for site in model.traced.sites if not site.is_optional)
    found = average_perturbation_hessian(model, [batch], names, PerturbationSettings(temperature, "ones"))
    for site, tap in names.items():
        expected = published(batch, tap, temperature).float()
        torch.testing.assert_close(found[site][0], expected, rtol=1e-3, atol=1e-7)
        # Softmax takes away what all scores have in common; so it does for the logits, which fc2 adds to.
        assert (expected.max() > 1e-4) == (tap not in ("qk", "fc2")), tap


def test_stages() -> None:
    model = block_model()
    batch = images(3)
    found = stage_hessians(model, iter([batch[:1], batch[1:]]), range(len(model.stages)), ONES)
    state: tuple[object, ...] = (batch,)
    for index in range(len(model.stages)):
        state = model.run_stage(index, state)
        assert len(found[index]) == len(state)
        for hessian, value in zip(found[index], state, strict=True):
            assert isinstance(value, Tensor)
            assert hessian is not None
            assert hessian.shape == (1, *value.shape[1:])
    residual = next(h for h, stage in zip(found.values(), model.stages, strict=True) if "qkv" in stage.sites)[0]
    assert residual is not None
    torch.testing.assert_close(residual[0], published(batch.double(), "residual", 20.0).float(), rtol=1e-3, atol=1e-5)


def test_shape_is_that_of_one_image() -> None:
    model = block_model()
    found = average_perturbation_hessian(model, [images(3)], ["qkv", _name(model, "qk")])
    assert found["qkv"].shape == (1, TOKENS, 3 * CHANNELS)
    assert found[_name(model, "qk")].shape == (1, 2, TOKENS, TOKENS)


def _name(model: QuantizedModel, end: str) -> str:
    return next(site.name for site in model.traced.sites if site.name.rpartition(".")[2] == end)


def test_windows_in_the_batch_axis() -> None:
    found = []
    for folded in (True, False):
        model = QuantizedModel(traced(seeded(lambda folded=folded: Windows(folded))))
        found.append(average_perturbation_hessian(model, [tokens(4)], ["layer"], ONES)["layer"])
    assert found[0].shape == (3, 2, 4)
    torch.testing.assert_close(found[0].reshape(1, 6, 4), found[1])


def test_division_into_batches_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = block_model()
    batch = images(6)
    sites = [site.name for site in model.traced.sites]
    at_once = average_perturbation_hessian(model, [batch], sites)
    seen: list[int] = []
    streamed = average_perturbation_hessian(model, iter(torch.split(batch, [1, 3, 2])), sites, progress=seen.append)
    assert seen == [1, 3, 2]
    monkeypatch.setattr(perturbation_hessian, "_ACTIVATION_BYTES", 1)
    seen.clear()
    one_by_one = average_perturbation_hessian(model, [batch], sites, progress=seen.append)
    assert seen == [1] * 6
    for site in sites:
        for other in (streamed, one_by_one):
            torch.testing.assert_close(other[site], at_once[site], rtol=1e-4, atol=1e-6)


def test_order_and_choice_of_sites_do_not_matter() -> None:
    model = block_model()
    both = average_perturbation_hessian(model, [images(2)], ["fc1", "qkv"])
    assert torch.equal(average_perturbation_hessian(model, [images(2)], ["qkv"])["qkv"], both["qkv"])


def test_leaves_nothing_behind() -> None:
    model = block_model()
    model.insert_({("fc1", "weight"): nn.Identity()})
    flags = [parameter.requires_grad for parameter in model.parameters()]
    assert all(flags)
    batch = images(2)
    found = average_perturbation_hessian(model, [batch], ["fc1"])["fc1"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(slot.quantizer is None for slot in model.slots.values())
    assert not batch.requires_grad
    assert not found.requires_grad
    with torch.inference_mode():
        made_here = images(2)
        torch.testing.assert_close(average_perturbation_hessian(model, [made_here], ["fc1"])["fc1"], found)
        assert len(stage_hessians(model, [made_here], [0])[0]) == 1


def test_what_cannot_be_done() -> None:
    model = block_model()
    with pytest.raises(RecipeError, match=r"no site 'fc3'.*fc"):
        average_perturbation_hessian(model, [images(2)], ["fc3"])
    for empty in ([], [images(2)[:0]]):
        with pytest.raises(CalibrationError, match="no calibration images"):
            average_perturbation_hessian(model, empty, ["fc1"])
        with pytest.raises(CalibrationError, match="no calibration images"):
            stage_hessians(model, empty, [0])
    with pytest.raises(CalibrationError, match="temperature 0"):
        PerturbationSettings(temperature=0.0)
    other = QuantizedModel(traced(seeded(TokensFirst)))
    with pytest.raises(CalibrationError, match=r"'layer' has shape \(6, 4, 8\) for 4 images"):
        average_perturbation_hessian(other, [tokens(4)], ["layer"])
    with torch.no_grad():
        model.traced.weight("fc2").fill_(math.nan)
    with pytest.raises(CalibrationError, match="Hessian of 'qkv' has NaN"):
        average_perturbation_hessian(model, [images(2)], ["qkv"])


def test_operations_that_cannot_be_differentiated_twice() -> None:
    batch = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = QuantizedModel(trace(seeded(Regions), batch))
    after = average_perturbation_hessian(model, [batch], ["head"])
    assert after["head"].shape == (1, 3), "nothing of it lies behind that operation"
    expected = (
        r"cannot be differentiated twice \(double backwards on roi_align not supported\): measure by fisher or kl"
    )
    with pytest.raises(CalibrationError, match=expected):
        average_perturbation_hessian(model, [batch], ["stem"])


def test_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    output, reference = torch.randn(2, 6, 2, 4, generator=generator).unbind()  # two images of three windows
    hessian = torch.rand(3, 2, 4, generator=generator)
    expected = sum(
        0.5 * float((output[3 * image + w] - reference[3 * image + w]).square().mul(hessian[w]).sum()) / 2
        for image in range(2)
        for w in range(3)
    )
    output.requires_grad_()
    loss = hessian_loss(output, reference, hessian)
    assert float(loss.detach()) == pytest.approx(expected)
    loss.backward()
    torch.testing.assert_close(output.grad, (output.detach() - reference) * hessian.repeat(2, 1, 1) / 2)


@torch.no_grad()
def test_loss_is_the_kl_of_a_small_error_of_one_element() -> None:
    _, batch, module = two_layers()
    curvature = closed_form(module, batch, 1.0)
    o = module.first(batch).double()
    module = module.double()
    error = torch.zeros(6, 5, dtype=torch.float64)
    error[:, 2] = 1e-3
    log_p, log_q = (module.second(output).log_softmax(-1) for output in (o, o + error))
    kl = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    diagonal = curvature.diagonal(dim1=1, dim2=2).mean(0)
    assert float(hessian_loss(o + error, o, diagonal)) == pytest.approx(kl, rel=1e-2)


def test_an_output_that_depends_on_no_image_has_importance() -> None:
    model = QuantizedModel(traced(seeded(Queries)))
    batch = tokens(4)
    found = average_perturbation_hessian(model, [batch], ["query", "key"], ONES)
    whole = torch.autograd.functional.jacobian  # of each image's logits by the queries' outputs
    module = seeded(Queries)
    keys = module.key(batch)
    expected = torch.zeros(3, 8)
    for image in keys.detach():
        queries = module.query(module.queries).detach()
        rows = whole(lambda q, image=image: (q @ image.mT).mean(1), queries).flatten(1)  # (logits, elements)
        p = torch.softmax((queries @ image.mT).mean(1) / 20, 0)
        expected += (rows.mT @ (torch.diag(p) - torch.outer(p, p)) @ rows.sum(1)).abs().view(3, 8) / len(keys)
    assert torch.allclose(found["query"].float().view(3, 8), expected, rtol=1e-4)
