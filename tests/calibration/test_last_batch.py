"""Values of the last batch, a stage at a time, against all of them kept at once."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from autoq.calibration import CalibrationSettings
from autoq.calibration.capture import capture
from autoq.calibration.last_batch import samples_of_last_batch
from autoq.calibration.shared_ranges import SharedRecorder
from autoq.graph.insert import OperandKey, QuantizedModel
from autoq.graph.trace import trace

BLOCKS, TOKENS, CHANNELS = 4, 5, 8


class Block(nn.Module):
    """Attention of two heads and a layer, with residual sums."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.fc = nn.LayerNorm(CHANNELS), nn.Linear(CHANNELS, 24), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).reshape(x.shape[0], TOKENS, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return x + self.fc(x)


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(*(Block() for _ in range(BLOCKS))).eval()
    return QuantizedModel(trace(module, images(2)))


def images(count: int) -> Tensor:
    return torch.randn(count, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shares", [True, False])
def test_samples_are_those_that_were_kept_at_once(model: QuantizedModel, shares: bool) -> None:
    settings = CalibrationSettings(
        observer="omse", sample_last_batch=True, sample_elements=1 << 40, shares_ranges=shares
    )
    keys = [(site.name, operand.name) for site, operand in model.traced.operands() if not operand.is_weight]
    batches = list(torch.split(images(11), 4))
    expected = capture(model, batches, settings, operands=keys)
    ranges = capture(model, batches, settings, operands=keys, keeps_values=False)
    assert all(not each.values.numel() for each in ranges.values())
    found = {}
    pieces: list[set[OperandKey]] = []
    for piece in samples_of_last_batch(model, batches[-1], settings, ranges):
        found |= piece
        pieces.append(set(piece))
    assert found.keys() == expected.keys()
    assert sum(map(len, pieces)) == len(keys)
    for key, sample in expected.items():
        for name in ("values", "lower", "upper"):
            assert torch.equal(getattr(found[key], name), getattr(sample, name)), (key, name)
    assert all(slot.quantizer is None for slot in model.slots.values())
    if not shares:
        assert all(len({model.stage_of[key] for key in piece}) == 1 for piece in pieces)
        assert len(pieces) > BLOCKS


def test_values_are_let_go_before_the_next_stage_runs(model: QuantizedModel) -> None:
    settings = CalibrationSettings(sample_last_batch=True, sample_elements=1 << 40, shares_ranges=True)
    keys = [(site.name, operand.name) for site, operand in model.traced.operands() if not operand.is_weight]
    ranges = capture(model, [images(3)], settings, operands=keys, keeps_values=False)
    alive: list[weakref.ref[Tensor]] = []
    for piece in samples_of_last_batch(model, images(3), settings, ranges):
        gc.collect()
        assert not [each for each in alive if each() is not None]
        shared = [each for each in gc.get_objects() if type(each) is SharedRecorder and not each.is_empty]
        assert len(shared) <= 1
        del shared
        alive = [weakref.ref(sample.values) for sample in piece.values()]
        del piece
