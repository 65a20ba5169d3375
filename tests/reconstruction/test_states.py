from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from autoq.errors import CalibrationError
from autoq.graph.insert import QuantizedModel
from autoq.graph.stages import State
from autoq.graph.trace import trace
from autoq.reconstruction.states import StateStore, find_layouts


class Windowed(nn.Module):
    """Like Swin: reads the number of images, and folds two windows of each into the batch axis."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 8, 2, 2)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("offset", torch.randn(2, 8))

    def forward(self, x: Tensor) -> Tensor:
        images = x.shape[0]
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.first(x.reshape(images * 2, 2, 8) + self.offset).relu().reshape(images, 4, 8)
        x = x + self.second(x.reshape(images * 2, 2, 8)).relu().reshape(images, 4, 8)
        return self.head(x.mean(1))


class Swapped(nn.Module):
    """Images lie along the second axis between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.flatten(2).transpose(0, 1))).transpose(0, 1)


def pictures(count: int) -> Tensor:
    return torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(count))


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    torch.manual_seed(0)
    return QuantizedModel(trace(Windowed().eval(), pictures(2)))


def states(model: QuantizedModel, images: Tensor) -> list[State]:
    found: list[State] = [(images,)]
    with torch.no_grad():
        for index in range(len(model.stages)):
            found.append(model.run_stage(index, found[-1]))
    return found


def test_sizes_follow_the_number_of_images(model: QuantizedModel) -> None:
    layouts = find_layouts(model, pictures(1))
    for count in (1, 5):
        for layout, state in zip(layouts, states(model, pictures(count)), strict=True):
            for entry, value in zip(layout, state, strict=True):
                if entry.kind == "size":
                    assert entry.start + count * entry.per_image == value
                else:
                    assert isinstance(value, Tensor)
                    assert entry.kind == "images"
                    assert value.shape == (count * entry.per_image, *entry.shape[1:])
    assert any(entry.kind == "size" for layout in layouts for entry in layout)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_batch_of_stored_states_runs_as_if_it_had_been_run_alone(
    model: QuantizedModel, on_disk: bool, tmp_path: Path
) -> None:
    images, layouts = pictures(7), find_layouts(model, pictures(1))
    chosen = torch.tensor([4, 0, 4])
    expected = states(model, images[chosen])
    for cut, state in enumerate(states(model, images)):
        store = StateStore(layouts[cut], 7, tmp_path if on_disk else None)
        store.put_(0, state)
        found = store.get(chosen, torch.device("cpu"))
        for index in range(cut, len(model.stages)):
            found = model.run_stage(index, found)
        torch.testing.assert_close(found, expected[-1])
    assert not list(tmp_path.iterdir())  # files have no name, so that a kill leaves none behind


def test_a_full_disk_raises_an_error(model: QuantizedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:  # noqa: ARG001
        assert length == 7 * 4 * 4 * 4
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autoq.reconstruction.states.os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        StateStore(find_layouts(model, pictures(1))[0], 7, tmp_path)


def test_states_are_put_in_pieces_and_got_as_copies(model: QuantizedModel) -> None:
    images, layouts = pictures(5), find_layouts(model, pictures(1))
    cut = len(model.stages)
    store = StateStore(layouts[cut], 5)
    for start, stop in ((0, 2), (2, 5)):
        store.put_(start, states(model, images[start:stop])[cut])
    whole = store.get(slice(0, 5), torch.device("cpu"))[0]
    assert isinstance(whole, Tensor)
    torch.testing.assert_close(whole, states(model, images)[cut][0])
    whole.zero_()
    again = store.get(slice(0, 5), torch.device("cpu"))[0]
    assert isinstance(again, Tensor)
    assert again.abs().max() > 0


def test_images_themselves_are_a_store_that_is_not_changed(model: QuantizedModel) -> None:
    images = pictures(3)
    store = StateStore.of_images(find_layouts(model, pictures(1))[0], images)
    (got,) = store.get(slice(1, 3), torch.device("cpu"))
    assert isinstance(got, Tensor)
    torch.testing.assert_close(got, images[1:])
    got.zero_()
    assert images[1:].abs().min() > 0
    assert store.bytes == images.numel() * 4


def test_mean_and_scale_are_over_all_elements(model: QuantizedModel) -> None:
    images = pictures(4)
    store = StateStore(find_layouts(model, pictures(1))[0], 4)
    store.put_(0, (images,))
    assert store.mean() == pytest.approx(float(images.mean()))
    store.scale_(3.0)
    assert store.mean() == pytest.approx(3 * float(images.mean()))


def test_a_model_with_images_along_another_axis_is_refused() -> None:
    model = QuantizedModel(trace(Swapped().eval(), torch.randn(2, 3, 2, 2)))
    with pytest.raises(CalibrationError, match="leading axis does not hold one image after the other"):
        find_layouts(model, torch.randn(1, 3, 2, 2))
