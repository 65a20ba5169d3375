"""What one full-precision pass keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration import CalibrationSettings, OperandSample, capture
from autoq.errors import CalibrationError
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
    return [sample.values, sample.lower, sample.upper, *bounds]


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


def test_memory_does_not_grow_with_the_images() -> None:
    model = block_model()
    settings = CalibrationSettings(sample_images=4, sample_elements=400)

    def kept(count: int) -> int:
        samples = capture(model, torch.split(images(count), 8), settings)
        return sum(tensor.numel() for sample in samples.values() for tensor in tensors_of(sample))

    assert kept(400) == kept(200)
    for sample in capture(model, torch.split(images(200), 50), settings).values():
        assert sample.values.numel() <= 400
        for tensor in sample.further_entry_bounds or ():
            assert tensor.numel() <= 400


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
