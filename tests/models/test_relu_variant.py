"""A model with ReLU in place of GELU, saved as a model like any other."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoq.errors import ModelError
from autoq.graph.trace import trace
from autoq.models import LoadedModel, load_model, save_model, weights_sha256
from autoq.models.relu_variant import save_relu_variant
from autoq.models.saving import use_relu_
from autoq.reconstruction.mlp import ReconstructedMlps, reconstruct_mlps
from autoq.reconstruction.mlp_graph import find_mlps, with_relu
from autoq.reconstruction.mlp_training import MlpSettings


def images(model: LoadedModel, count: int = 6) -> Tensor:
    return torch.randn(count, *model.input_size, generator=torch.Generator().manual_seed(0))


def reconstructed(model: LoadedModel) -> ReconstructedMlps:
    data = images(model)
    return reconstruct_mlps(trace(model.module, data[:2]), data, MlpSettings(iterations=2, batch_size=4))


def timm_folder(path: Path, architecture: str, **arguments: object) -> str:
    import timm

    torch.manual_seed(0)
    save_model(timm.create_model(architecture, **arguments), path, model_args=arguments)
    return f"local-dir:{path}"


@pytest.fixture(scope="module")
def digits() -> tuple[LoadedModel, ReconstructedMlps]:
    model = load_model("vit_digits")
    return model, reconstructed(model)


def test_loads_again_with_the_same_outputs(tmp_path: Path, digits: tuple[LoadedModel, ReconstructedMlps]) -> None:
    model, result = digits
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    with torch.no_grad():
        expected = result.traced.graph_module(images(model))
        save_relu_variant(model, result.parameters, tmp_path / "variant", images(model), expected)
        loaded = load_model(f"local-dir:{tmp_path / 'variant'}")
        assert torch.allclose(loaded.module(images(model)), expected, atol=1e-5)
        assert not torch.allclose(model.module(images(model)), expected, atol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())
    assert (loaded.input_size, loaded.num_classes) == (model.input_size, model.num_classes)
    assert loaded.label_names == model.label_names
    assert loaded.weights_sha256 != model.weights_sha256
    changed = {name for name, value in loaded.module.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(result.parameters)


def test_is_traced_like_any_other_model(tmp_path: Path, digits: tuple[LoadedModel, ReconstructedMlps]) -> None:
    model, result = digits
    expected = result.traced.graph_module(images(model)).detach()
    save_relu_variant(model, result.parameters, tmp_path, images(model), expected)
    traced = trace(load_model(f"local-dir:{tmp_path}").module, images(model)[:2])
    assert traced.sites == result.traced.sites
    assert traced.sites_by_name["blocks.1.mlp.fc2"].operand("input").producer == "relu"
    assert not find_mlps(traced)


def test_keeps_the_architecture_of_a_folder(tmp_path: Path) -> None:
    small = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 4}
    model = load_model(timm_folder(tmp_path / "plain", "vit_tiny_patch16_224", **small))
    result = reconstructed(model)
    expected = result.traced.graph_module(images(model)).detach()
    save_relu_variant(model, result.parameters, tmp_path / "relu", images(model), expected)
    loaded = load_model(f"local-dir:{tmp_path / 'relu'}")
    assert torch.allclose(loaded.module(images(model)), expected, atol=1e-5)


# Where timm does not let one choose the activation


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, ReconstructedMlps]:
    """It has layers of two blocks; timm's class takes no ``act_layer``."""
    small = {"img_size": 32, "embed_dim": 8, "depths": (2, 1), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}
    folder = timm_folder(tmp_path_factory.mktemp("swin"), "swin_tiny_patch4_window7_224", **small)
    model = load_model(folder)
    return model, reconstructed(model)


SWIN_ACTIVATIONS = ("layers.0.blocks.0.mlp.act", "layers.0.blocks.1.mlp.act", "layers.1.blocks.0.mlp.act")


def save_swin(swin: tuple[LoadedModel, ReconstructedMlps], path: Path) -> Tensor:
    """Its outputs."""
    model, result = swin
    expected = result.traced.graph_module(images(model)).detach()
    activations = [mlp.activation for mlp in find_mlps(trace(model.module, images(model)[:2]))]
    save_relu_variant(model, result.parameters, path, images(model), expected, activations)
    return expected


def test_modules_are_named_where_the_activation_cannot_be_chosen(
    tmp_path: Path, swin: tuple[LoadedModel, ReconstructedMlps]
) -> None:
    import timm

    model, result = swin
    expected = save_swin(swin, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["autoq"] == {"relu": list(SWIN_ACTIVATIONS)}
    loaded = load_model(f"local-dir:{tmp_path}")
    with torch.no_grad():
        assert torch.allclose(loaded.module(images(model)), expected, atol=1e-5)
        assert not torch.allclose(model.module(images(model)), expected, atol=1e-3)
        plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert not torch.allclose(plain(images(model)), expected, atol=1e-3)  # as documented
    assert isinstance(model.module.get_submodule(SWIN_ACTIVATIONS[0]), torch.nn.GELU)  # left as it was
    traced = trace(loaded.module, images(model)[:2])
    assert traced.sites == result.traced.sites
    assert torch.allclose(traced.graph_module(images(model)), expected, atol=1e-5)
    assert not find_mlps(traced)
    assert not loaded.module.get_submodule(SWIN_ACTIVATIONS[0]).training


def test_the_hash_tells_models_apart_that_differ_in_activations_alone(
    tmp_path: Path, swin: tuple[LoadedModel, ReconstructedMlps]
) -> None:
    save_swin(swin, tmp_path)
    hashes = [load_model(f"local-dir:{tmp_path}").weights_sha256]
    config = json.loads((tmp_path / "config.json").read_text())
    for kept in (SWIN_ACTIVATIONS[:1], SWIN_ACTIVATIONS[1:], ()):
        (tmp_path / "config.json").write_text(json.dumps(config | {"autoq": {"relu": list(kept)}}))
        hashes.append(load_model(f"local-dir:{tmp_path}").weights_sha256)
    assert len(set(hashes)) == 4
    del config["autoq"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    plain = load_model(f"local-dir:{tmp_path}")
    assert plain.weights_sha256 == hashes[-1] == weights_sha256(plain.module)


def test_a_model_with_named_modules_can_be_saved_again(
    tmp_path: Path, swin: tuple[LoadedModel, ReconstructedMlps]
) -> None:
    expected = save_swin(swin, tmp_path / "one")
    first = load_model(f"local-dir:{tmp_path / 'one'}")
    save_model(first.module, tmp_path / "two")
    second = load_model(f"local-dir:{tmp_path / 'two'}")
    assert second.weights_sha256 == first.weights_sha256
    with torch.no_grad():
        assert torch.allclose(second.module(images(first)), expected, atol=1e-5)


def test_modules_are_added_to_those_that_were_replaced_before(
    tmp_path: Path, swin: tuple[LoadedModel, ReconstructedMlps]
) -> None:
    model, _ = swin
    half = copy.deepcopy(model.module)
    use_relu_(half, SWIN_ACTIVATIONS[1:])
    assert not any(part.training for part in half.modules())
    save_model(half, tmp_path / "half")
    loaded = load_model(f"local-dir:{tmp_path / 'half'}")
    use_relu_(half, SWIN_ACTIVATIONS[:1])
    with torch.no_grad():
        expected = half(images(model))
    save_relu_variant(loaded, {}, tmp_path / "whole", images(model), expected, SWIN_ACTIVATIONS[:1])
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["autoq"] == {"relu": list(SWIN_ACTIVATIONS)}


def test_modules_are_named_where_other_gelus_must_stay(
    tmp_path: Path, digits: tuple[LoadedModel, ReconstructedMlps]
) -> None:
    model, _ = digits
    traced = trace(model.module, images(model)[:2])
    mlps = find_mlps(traced)[1:]
    expected = with_relu(traced, mlps).graph_module(images(model)).detach()
    activations = [mlp.activation for mlp in mlps]
    save_relu_variant(model, {}, tmp_path / "some", images(model), expected, activations)
    assert json.loads((tmp_path / "some" / "config.json").read_text())["autoq"] == {"relu": activations}
    with torch.no_grad():
        loaded = load_model(f"local-dir:{tmp_path / 'some'}")
        assert torch.allclose(loaded.module(images(model)), expected, atol=1e-5)


def test_a_normal_model_is_written_where_the_activation_can_be_chosen(
    tmp_path: Path, digits: tuple[LoadedModel, ReconstructedMlps]
) -> None:
    model, result = digits
    expected = result.traced.graph_module(images(model)).detach()
    activations = [mlp.activation for mlp in find_mlps(trace(model.module, images(model)[:2]))]
    assert all(activations)
    save_relu_variant(model, result.parameters, tmp_path, images(model), expected, activations)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "autoq" not in config
    assert config["model_args"]["act_layer"] == "relu"


@pytest.mark.parametrize("activations", [(), ("", *SWIN_ACTIVATIONS)])
def test_refuses_an_architecture_whose_activation_cannot_be_chosen(
    tmp_path: Path, swin: tuple[LoadedModel, ReconstructedMlps], activations: tuple[str, ...]
) -> None:
    model, _ = swin
    with pytest.raises(ModelError, match="cannot build 'swin_tiny_patch4_window7_224' with act_layer 'relu'"):
        save_relu_variant(model, {}, tmp_path / "relu", images(model), torch.zeros(6, 3), activations)
    assert not (tmp_path / "relu").exists()


def test_refuses_modules_that_are_not_all_that_were_swapped(
    tmp_path: Path, swin: tuple[LoadedModel, ReconstructedMlps]
) -> None:
    model, result = swin
    expected = result.traced.graph_module(images(model)).detach()
    for activations, reason in (
        (SWIN_ACTIVATIONS[:2], "with ReLU in 2 modules is not the reconstructed model: outputs differ"),
        (("layers.7.act",), r"there is no module 'layers\.7\.act' that ReLU could replace; it cannot be saved"),
    ):
        with pytest.raises(ModelError, match=reason):
            save_relu_variant(model, result.parameters, tmp_path / "relu", images(model), expected, activations)
    assert not (tmp_path / "relu").exists()


def test_refuses_outputs_that_are_not_the_expected_ones(
    tmp_path: Path, digits: tuple[LoadedModel, ReconstructedMlps]
) -> None:
    model, result = digits
    some = dict(list(result.parameters.items())[:-6])  # one MLP kept its parameters
    expected = result.traced.graph_module(images(model)).detach()
    for parameters, wanted in ((some, expected), (result.parameters, expected * torch.nan)):
        with pytest.raises(ModelError, match=r"is not the reconstructed model: outputs differ by"):
            save_relu_variant(model, parameters, tmp_path / "relu", images(model), wanted)
    assert not (tmp_path / "relu").exists()


@pytest.mark.parametrize("name", ["blocks.0.mlp.fc9.weight", "blocks.0.mlp.fc1.weight"])
def test_refuses_parameters_that_the_model_does_not_have(
    tmp_path: Path, digits: tuple[LoadedModel, ReconstructedMlps], name: str
) -> None:
    model, _ = digits
    with pytest.raises(ModelError, match=rf"no parameter '{name}' of shape \(3,\)"):
        save_relu_variant(model, {name: torch.zeros(3)}, tmp_path, images(model), torch.zeros(6, 10))
