"""What one full-precision pass keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration import OBSERVERS, CalibrationSettings, OperandSample, capture
from autoq.errors import CalibrationError, RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from tests.calibration.samples import CHANNELS, TOKENS, block_model, images, key_of

SETTINGS = CalibrationSettings(sample_images=5)


class Recording(nn.Module):
    """Keeps everything that passes a slot."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.clone())
        return x


def record(model: QuantizedModel, batch: Tensor) -> dict[tuple[str, str], Tensor]:
    recorders = {(s.name, o.name): Recording() for s, o in model.traced.operands() if not o.is_weight and s.macs}
    model.insert_(recorders)
    with torch.no_grad():
        model.run(batch)
    model.remove_()
    return {key: recorder.seen[0] for key, recorder in recorders.items()}


def tensors_of(sample: OperandSample) -> list[Tensor]:
    bounds = [*(sample.entry_bounds or ()), *(sample.further_entry_bounds or ())]
    observed = [bound for pair in sample.observed.values() for bound in pair]
    return [sample.values, sample.lower, sample.upper, *bounds, *observed]


@pytest.mark.parametrize("sizes", [(12,), (3, 4, 5), (1,) * 12])
def test_samples_are_what_passes_whatever_the_batches(sizes: tuple[int, ...]) -> None:
    model, batch = block_model(), images(12)
    whole = record(model, batch)
    samples = capture(model, torch.split(batch, list(sizes)), SETTINGS)
    assert samples.keys() == whole.keys()
    for key, sample in samples.items():
        x, layout = whole[key], model.traced.sites_by_name[key[0]].operand(key[1]).layout
        torch.testing.assert_close(sample.values, x[:5])
        kept = {axis % x.ndim for axis in (layout.channel_axis, layout.head_axis) if axis is not None}
        others = [axis for axis in range(x.ndim) if axis not in kept]
        torch.testing.assert_close(sample.lower, x.amin(others, keepdim=True))
        torch.testing.assert_close(sample.upper, x.amax(others, keepdim=True))
    linear = whole["fc1", "input"]
    sample = samples["fc1", "input"]
    assert sample.entry_bounds is not None
    assert sample.further_entry_bounds is not None
    for index in range(2):
        every = (linear.amin(1, keepdim=True), linear.amax(1, keepdim=True))[index]
        torch.testing.assert_close(sample.entry_bounds[index], every[:5])
        torch.testing.assert_close(sample.further_entry_bounds[index], every[5:])


@pytest.mark.parametrize("observer", ["mse", "ema", "percentile"])
def test_memory_does_not_grow_with_the_images(observer: Any) -> None:
    model = block_model()
    settings = CalibrationSettings(observer=observer, sample_images=4, sample_elements=400)

    def kept(count: int) -> int:
        samples = capture(model, torch.split(images(count), 8), settings)
        return sum(tensor.numel() for sample in samples.values() for tensor in tensors_of(sample))

    assert kept(400) == kept(200)
    for sample in capture(model, torch.split(images(200), 50), settings).values():
        assert sample.values.numel() <= 400
        for tensor in sample.further_entry_bounds or ():
            assert tensor.numel() <= 400


@pytest.mark.parametrize("observer", OBSERVERS)
def test_averages_are_over_the_batches_at_every_resolution(observer: Any) -> None:
    model, parts = block_model(), torch.split(images(12), [3, 4, 5])
    settings = CalibrationSettings(observer=observer, percentile=90.0, averaging_constant=0.25, sample_images=2)
    seen = [record(model, part) for part in parts]
    for key, sample in capture(model, parts, settings).items():
        layout = model.traced.sites_by_name[key[0]].operand(key[1]).layout
        axes = {"tensor": (), "channel": (layout.channel_axis,)}
        if layout.head_axis is not None:
            axes["head"] = (layout.head_axis,)
        assert set(sample.observed) == (set(axes) if observer in ("ema", "percentile") else set())
        for granularity, found in sample.observed.items():
            expected = None
            for x in (whole[key] for whole in seen):
                rows = x.movedim(axes[granularity], tuple(range(len(axes[granularity]))))
                rows = rows.reshape(*(x.shape[axis] for axis in axes[granularity]), -1)
                bounds = torch.stack([rows.amin(-1), rows.amax(-1)])
                if observer == "percentile":
                    bounds = torch.quantile(rows, torch.tensor([0.1, 0.9]), dim=-1)
                expected = bounds if expected is None else 0.75 * expected + 0.25 * bounds
            assert expected is not None
            shape = [x.shape[axis] if axis - x.ndim in axes[granularity] else 1 for axis in range(x.ndim)]
            for bound, wanted in zip(found, expected, strict=True):
                assert list(bound.shape) == shape
                torch.testing.assert_close(bound.flatten(), wanted.flatten(), rtol=1e-4, atol=1e-5)


def test_named_operands_are_recorded_and_no_others() -> None:
    model, batch = block_model(), images(8)
    without_macs = [(s.name, o.name) for s, o in model.traced.operands() if s.op in ("layer_norm", "softmax")]
    norm = next(key for key in without_macs if model.traced.sites_by_name[key[0]].op == "layer_norm")
    samples = capture(model, [batch], SETTINGS, operands=[norm, ("fc1", "input")])
    assert list(samples) == [norm, ("fc1", "input")]
    torch.testing.assert_close(samples[norm].values, batch[:5])
    torch.testing.assert_close(samples[norm].upper, batch.amax((0, 1), keepdim=True))
    unnamed = capture(model, [batch], SETTINGS)
    assert unnamed.keys().isdisjoint(without_macs)
    for one, other in zip(tensors_of(samples["fc1", "input"]), tensors_of(unnamed["fc1", "input"]), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert capture(model, [batch], SETTINGS, operands=without_macs).keys() == set(without_macs)
    assert len(without_macs) == 2
    assert capture(model, [batch], SETTINGS, operands=[]) == {}


def test_operands_that_cannot_be_recorded_are_refused() -> None:
    model = block_model()
    with pytest.raises(CalibrationError, match="fc1:weight is a weight"):
        capture(model, [images(2)], SETTINGS, operands=[("fc1", "weight")])
    with pytest.raises(RecipeError, match="no site 'fc3'"):
        capture(model, [images(2)], SETTINGS, operands=[("fc3", "input")])


def test_tokens_are_chosen_by_the_seed() -> None:
    def values(seed: int) -> Tensor:
        settings = CalibrationSettings(sample_images=4, sample_elements=4 * 3 * CHANNELS, seed=seed)
        return capture(model, [images(8)], settings)["qkv", "input"].values

    model = block_model()
    whole = record(model, images(8))["qkv", "input"][:4]
    assert values(0).shape == (4, 3, CHANNELS)
    torch.testing.assert_close(values(0), values(0), rtol=0, atol=0)
    assert any(not torch.equal(values(0), values(seed)) for seed in range(1, 6))
    places = [token for token in range(TOKENS) if any(torch.equal(whole[:, token], t) for t in values(3).unbind(1))]
    assert len(places) == 3
    assert places[0] == 0  # a class token is unlike the others


def test_large_seeds_are_seeds() -> None:
    assert capture(block_model(), [images(2)], CalibrationSettings(seed=2**40))


class Windows(nn.Module):
    """Four windows of four tokens an image, as Swin's; the linear layer sees one window an entry."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x.reshape(-1, 4, 8))
        return x.reshape(-1, 16, 8).mean(1)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3)))


def test_windows_belong_to_their_images() -> None:
    x = torch.randn(6, 16, 8, generator=torch.Generator().manual_seed(0))
    model = QuantizedModel(trace(Windows().eval(), x[:2]))
    sample = capture(model, torch.split(x, 3), CalibrationSettings(sample_images=4))["layer", "input"]
    torch.testing.assert_close(sample.values, x[:4].reshape(16, 4, 8))
    assert sample.entry_bounds is not None
    assert sample.further_entry_bounds is not None
    torch.testing.assert_close(sample.entry_bounds[0], x[:4].amin(1, keepdim=True))
    torch.testing.assert_close(sample.further_entry_bounds[1], x[4:].amax(1, keepdim=True))


def test_channels_of_images_and_of_vectors_are_found() -> None:
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    model = QuantizedModel(trace(Convolution().eval(), x[:2]))
    samples = capture(model, [x], CalibrationSettings(sample_images=4, sample_elements=3 * 6 * 2 * 4))
    assert samples["conv", "input"].lower.shape == (1, 3, 1, 1)
    assert samples["conv", "input"].values.numel() == 3 * 6 * 2 * 4
    assert samples["head", "input"].values.shape == (4, 4)
    assert samples["head", "input"].upper.shape == (1, 4)


def test_rows_of_attention_maps_sum_to_one() -> None:
    model = block_model()
    values = capture(model, [images(8)], SETTINGS)[key_of(model, "softmax")].values
    assert values.shape == (5, 2, TOKENS, TOKENS)
    torch.testing.assert_close(values.sum(-1), torch.ones(5, 2, TOKENS))


def test_bfloat16_models_give_float32_samples() -> None:
    layer = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)).eval().bfloat16()
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    for sample in capture(QuantizedModel(trace(layer, x[:2])), [x], SETTINGS).values():
        assert {tensor.dtype for tensor in tensors_of(sample)} == {torch.float32}


def test_slots_are_empty_afterwards() -> None:
    model = block_model()
    seen: list[int] = []
    capture(model, torch.split(images(7), 3), SETTINGS, seen.append)
    assert seen == [3, 3, 1]
    assert all(slot.quantizer is None for slot in model.slots.values())

    def failing() -> Any:
        yield images(2)
        raise OSError("no more images")

    with pytest.raises(OSError, match="no more images"):
        capture(model, failing(), SETTINGS)
    assert all(slot.quantizer is None for slot in model.slots.values())


def test_bad_input_is_refused() -> None:
    model = block_model()
    with pytest.raises(CalibrationError, match="no calibration images"):
        capture(model, [], SETTINGS)
    with pytest.raises(CalibrationError, match="qkv:input has NaN or infinite values"):
        capture(model, [torch.full((2, TOKENS, CHANNELS), torch.nan)], SETTINGS)


def test_samples_are_on_the_device_of_the_model() -> None:
    model = block_model()
    devices = {t.device for s in capture(model, [images(4)], SETTINGS).values() for t in tensors_of(s)}
    assert devices == {next(model.parameters()).device}
