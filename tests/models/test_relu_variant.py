"""A model with ReLU in place of GELU, saved as a model like any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoq.errors import ModelError
from autoq.graph.trace import trace
from autoq.models import LoadedModel, load_model, save_model
from autoq.models.relu_variant import save_relu_variant
from autoq.reconstruction.mlp import ReconstructedMlps, reconstruct_mlps
from autoq.reconstruction.mlp_graph import find_mlps
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


def test_refuses_an_architecture_whose_activation_cannot_be_chosen(tmp_path: Path) -> None:
    small = {"img_size": 32, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4, "num_classes": 3}
    model = load_model(timm_folder(tmp_path / "swin", "swin_tiny_patch4_window7_224", **small))
    with pytest.raises(ModelError, match="cannot build 'swin_tiny_patch4_window7_224' with act_layer 'relu'"):
        save_relu_variant(model, {}, tmp_path / "relu", images(model), torch.zeros(6, 3))
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
