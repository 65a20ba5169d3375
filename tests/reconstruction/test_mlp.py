"""MLP reconstruction: GELU becomes ReLU, and training makes up for it."""

from __future__ import annotations

import math
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from autoq.errors import CalibrationError, ModelError, RunDirectoryError
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.reconstruction.losses import normalized
from autoq.reconstruction.mlp import MlpProgress, ReconstructedMlps, reconstruct_mlps
from autoq.reconstruction.mlp_graph import find_mlps, with_relu
from autoq.reconstruction.mlp_training import MlpSettings, span_of, weighted_error
from autoq.sensitivity.perturbation_hessian import PerturbationSettings, stage_hessians
from tests.reconstruction.small_mlps import Branch, Small, images, small, traced_small

QUICK = MlpSettings(iterations=15, batch_size=4, learning_rate=5e-3)


def states_of(result: ReconstructedMlps) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in result.parameters.items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


# Training


def trained_slowly(module: Small, data: Tensor, settings: MlpSettings) -> dict[str, Tensor]:
    """The same for both MLPs, from the definition, without a graph."""
    original, result = small(), module
    traced_model = trace(small(), data[:2])
    stages = [span_of(QuantizedModel(traced_model), mlp).last for mlp in find_mlps(traced_model)]
    hessians = stage_hessians(QuantizedModel(traced_model), [data], stages)
    parameters: dict[str, Tensor] = {}
    for index, branch in enumerate(result.layers):
        branch.act = nn.ReLU()
        (entry,) = hessians[stages[index]]
        assert entry is not None
        weight = entry / entry.mean()
        with torch.no_grad():
            target = source = original.embed(data.squeeze(1))
            if settings.inputs == "reconstructed":
                source = result.embed(data.squeeze(1))
            for before in range(index):
                target = original.layers[before](target)
                source = (result if settings.inputs == "reconstructed" else original).layers[before](source)
            target = original.layers[index](target)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{settings.seed} layers.{index}".encode()))
        optimizer = torch.optim.Adam(branch.parameters(), lr=settings.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.iterations)
        for _ in range(settings.iterations):
            chosen = torch.randperm(len(data), generator=generator)[: settings.batch_size]
            hidden = branch.widen(branch.scaler(source[chosen])).relu()
            positive = hidden.detach()[hidden > 0].sort().values
            top = positive[math.ceil(settings.clamp_quantile * len(positive)) - 1]
            loss = torch.zeros(())
            for values, factor in ((hidden, 1), (hidden.clamp(max=top), settings.clamp_weight)):
                error = source[chosen] + branch.narrow(values) - target[chosen]
                loss = loss + factor * (error**2 * weight).sum() / 2 / settings.batch_size
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        parameters |= {f"layers.{index}.{name}": value.detach() for name, value in branch.named_parameters()}
    return parameters


@pytest.mark.parametrize("inputs", ["original", "reconstructed"])
def test_trains_as_defined(inputs: str) -> None:
    settings = MlpSettings(6, 5, 1e-3, clamp_quantile=0.8, clamp_weight=3.0, inputs=inputs, seed=5)  # type: ignore[arg-type]
    found = reconstruct_mlps(traced_small(), images(), settings).parameters
    expected = trained_slowly(small(), images(), settings)
    start = dict(small().named_parameters())
    assert found.keys() == expected.keys()
    for name, value in found.items():
        moved = (value - start[name]).abs().max()
        assert moved > 1e-3, name
        assert (value - expected[name]).abs().max() < 0.02 * moved, name


def test_norms_need_not_be_trained() -> None:
    found = reconstruct_mlps(traced_small(), images(), MlpSettings(6, 5, 1e-3, train_norm=False)).parameters
    everything = reconstruct_mlps(traced_small(), images(), MlpSettings(6, 5, 1e-3)).parameters
    assert everything.keys() - found.keys() == {name for name in everything if ".scaler." in name} != set()


@pytest.mark.parametrize("inputs", ["original", "reconstructed"])
def test_training_lowers_the_error_and_leaves_the_original_alone(inputs: str) -> None:
    module = small()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    settings = MlpSettings(60, 4, 5e-3, inputs=inputs)  # type: ignore[arg-type]
    result = reconstruct_mlps(trace(module, images(2)), images(), settings)
    assert list(result.errors) == ["layers.0", "layers.1"]
    for errors in result.errors.values():
        assert 0 < errors.after < errors.before / 2
    assert_same(before, dict(module.state_dict()))
    assert all(parameter.grad is None for parameter in module.parameters())
    with_trained = small(act=nn.ReLU())
    with_trained.load_state_dict(before | result.parameters)
    assert torch.equal(result.traced.graph_module(images()), with_trained(images()))
    assert not any(value.requires_grad for value in result.parameters.values())


def test_mlps_that_share_a_stage_are_trained_one_after_the_other() -> None:
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = Branch(), Branch(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = x.squeeze(1)
            return self.head((self.one(tokens) + self.two(tokens)).mean(1))

    torch.manual_seed(0)
    model = trace(Parallel().eval(), images(2))
    result = reconstruct_mlps(model, images(), MlpSettings(40, 4, 5e-3))
    assert all(errors.after < errors.before for errors in result.errors.values())
    assert {name.split(".")[0] for name in result.parameters} == {"one", "two"}


class Streams(nn.Module):
    """Two streams side by side: the MLP of one begins before that of the other, and ends after it.

    As two tensors are alive all along, the graph is cut in the middle of the MLPs.
    """

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.late = late  # whether the outer GELU comes after the inner MLP, or before it
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.outer, self.inner = Branch(), Branch()
        self.one, self.two = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        x, y = self.first(images), self.second(images)
        y = self.outer.widen(self.outer.scaler(y))
        y = y if self.late else self.outer.act(y)
        x = self.inner.narrow(self.inner.act(self.inner.widen(self.inner.scaler(x))))
        y = self.outer.narrow(self.outer.act(y) if self.late else y)
        return self.one(x).mean((1, 2)) + self.two(y).mean((1, 2))


@pytest.mark.parametrize("late", [True, False])
def test_an_mlp_inside_another_starts_from_its_own_states(late: bool) -> None:
    torch.manual_seed(0)
    model = trace(Streams(late).eval(), images(2))
    mlps, original = find_mlps(model), QuantizedModel(model)
    assert [mlp.name for mlp in mlps] == (["inner", "outer"] if late else ["outer", "inner"])
    inner, outer = sorted((span_of(original, mlp) for mlp in mlps), key=lambda span: -span.first)
    assert outer.first < inner.first < inner.last < outer.last  # else there would be nothing to test
    result = reconstruct_mlps(model, images(), MlpSettings(40, 4, 5e-3))

    def error(index: int, parameters: dict[str, Tensor]) -> float:
        """Of all images, each run from the start."""
        last = span_of(original, mlps[index]).last
        (found,) = stage_hessians(original, [images()], [last]).values()
        weights = normalized({leaf: each for leaf, each in enumerate(found) if each is not None})
        assert len(weights) == 2
        states: list[tuple[object, ...]] = []
        for runner in (QuantizedModel(with_relu(model, mlps[: index + 1], parameters)), original):
            states.append((images(),))
            for stage in range(last + 1):
                states[-1] = runner.run_stage(stage, states[-1])
        return float(weighted_error(*states, weights).detach())

    earlier: dict[str, Tensor] = {}
    for index, mlp in enumerate(mlps):
        errors = result.errors[mlp.name]
        assert errors.after < errors.before
        assert errors.before == pytest.approx(error(index, earlier), rel=1e-3)
        earlier |= {name: result.parameters[name] for name in mlp.parameters}
        assert errors.after == pytest.approx(error(index, earlier), rel=1e-3)


def test_errors_count_alike_where_none_matters() -> None:
    module = small(1)
    with torch.no_grad():
        module.classify.weight.zero_()  # no error reaches the output: H is zero
    result = reconstruct_mlps(trace(module, images(2)), images(), MlpSettings(40, 4, 5e-3))
    with torch.no_grad():
        x = module.embed(images().squeeze(1))
        branch = module.layers[0]
        hidden = branch.widen(branch.scaler(x))
        error = branch.narrow(hidden.relu()) - branch.narrow(nn.functional.gelu(hidden))
    (errors,) = result.errors.values()
    assert errors.before == pytest.approx(float((error**2).sum()) / 2 / len(x), rel=1e-4)
    assert errors.after < errors.before / 2


class Killed(Exception):  # noqa: N818
    """Stands for the end of a process."""


@pytest.mark.parametrize("inputs", ["original", "reconstructed"])
def test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one(tmp_path: Path, inputs: str) -> None:
    settings = MlpSettings(15, 4, 5e-3, inputs=inputs)  # type: ignore[arg-type]
    model = traced_small(3)
    whole = reconstruct_mlps(model, images(), settings)

    def kill(event: MlpProgress) -> None:
        if (event.index, event.iteration) == (1, 10):
            raise Killed

    folder = tmp_path / "mlps"
    with pytest.raises(Killed):
        reconstruct_mlps(model, images(), settings, folder, progress=kill)
    assert sorted(path.name for path in folder.iterdir()) == ["00-layers.0.safetensors", "hessians.safetensors"]
    events: list[MlpProgress] = []
    resumed = reconstruct_mlps(traced_small(3), images(), settings, folder, progress=events.append)
    assert_same(states_of(whole), states_of(resumed))
    assert whole.errors == resumed.errors
    assert {event.index for event in events} == {1, 2}
    assert events[-1] == MlpProgress("layers.2", 2, 3, 15, 15, events[-1].loss)
    events.clear()
    again = reconstruct_mlps(traced_small(3), images(), settings, folder, progress=events.append)
    assert_same(states_of(whole), states_of(again))
    assert not events


def test_states_on_disk_give_the_same(tmp_path: Path) -> None:
    in_memory = reconstruct_mlps(traced_small(), images(), QUICK)
    on_disk = reconstruct_mlps(traced_small(), images(), QUICK, states_folder=tmp_path)
    assert_same(states_of(in_memory), states_of(on_disk))
    assert not list(tmp_path.iterdir())


def test_works_inside_inference_mode() -> None:
    model = traced_small()
    with torch.inference_mode():
        inside = reconstruct_mlps(model, images(), QUICK)
    assert_same(states_of(inside), states_of(reconstruct_mlps(traced_small(), images(), QUICK)))


# Refusals


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run with ``QUICK`` has kept."""
    folder = tmp_path_factory.mktemp("finished")
    reconstruct_mlps(traced_small(), images(), QUICK, folder)
    return folder


@pytest.mark.parametrize(
    "changed",
    [
        {"iterations": 16},
        {"batch_size": 5},
        {"learning_rate": 4e-3},
        {"clamp_quantile": 0.98},
        {"clamp_weight": 1.0},
        {"inputs": "original"},
        {"perturbation": PerturbationSettings(seed=1)},
        {"seed": 1},
    ],
)
def test_refuses_a_folder_made_with_other_settings(finished: Path, changed: dict[str, Any]) -> None:
    with pytest.raises(RunDirectoryError, match="another model, other images or other settings"):
        reconstruct_mlps(traced_small(), images(), replace(QUICK, **changed), finished)


def test_refuses_a_folder_made_of_other_images(finished: Path) -> None:
    moved = images()
    moved[-1, 0, -1, -1] += 1e-3
    for data in (images(8), images().flip(0), moved):
        with pytest.raises(RunDirectoryError, match="another model, other images or other settings"):
            reconstruct_mlps(traced_small(), data, QUICK, finished)


@pytest.mark.parametrize("name", [name for name, _ in small().named_parameters()])
def test_refuses_a_folder_made_of_other_weights(finished: Path, name: str) -> None:
    changed = small()
    with torch.no_grad():
        changed.get_parameter(name).flatten()[-1] += 1e-3
    with pytest.raises(RunDirectoryError, match="another model"):
        reconstruct_mlps(trace(changed, images(2)), images(), QUICK, finished)


@pytest.mark.parametrize("name", ["hessians", "00-layers.0", "01-layers.1"])
@pytest.mark.parametrize("damage", ["cut", "cut in the header", "empty", "of something else", "a directory"])
def test_refuses_a_damaged_file(finished: Path, tmp_path: Path, name: str, damage: str) -> None:
    folder = tmp_path / "mlps"
    shutil.copytree(finished, folder)
    path = folder / f"{name}.safetensors"
    content = {"cut": path.read_bytes()[:-1], "cut in the header": path.read_bytes()[:50], "empty": b""}
    if damage == "a directory":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(content.get(damage, b"PK" * 500))
    with pytest.raises(RunDirectoryError, match=rf"{name}\.safetensors.*delete it") as raised:
        reconstruct_mlps(traced_small(), images(), QUICK, folder)
    assert "\n" not in str(raised.value)


def test_refuses_a_file_that_does_not_say_what_it_is_of(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mlps"
    shutil.copytree(finished, folder)
    save_file(load_file(folder / "hessians.safetensors"), folder / "hessians.safetensors")
    with pytest.raises(RunDirectoryError, match="another model"):
        reconstruct_mlps(traced_small(), images(), QUICK, folder)


def test_refuses_a_model_without_gelu() -> None:
    with pytest.raises(ModelError, match="no GELU between two linear layers"):
        reconstruct_mlps(traced_small(act=nn.ReLU()), images(), QUICK)


def test_refuses_to_go_on_when_training_diverges() -> None:
    with pytest.raises(CalibrationError, match=r"'layers\.0'.*learning rate below 1e\+30"):
        reconstruct_mlps(traced_small(), images(), MlpSettings(20, 4, 1e30))
