"""A folder that holds a model of another library with ReLU in some modules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoq.errors import ModelError
from autoq.graph.trace import trace
from autoq.models import LoadedModel, describe_module, load_model
from autoq.models.derived import derived_config, save_derived
from autoq.models.relu_variant import save_relu_variant
from autoq.models.saving import use_relu_
from autoq.reconstruction.mlp_graph import find_mlps, with_relu


@pytest.fixture(scope="module")
def detector() -> LoadedModel:
    return load_model("swin_shapes", pretrained=False)


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_a_detector_with_trained_relu_mlps_loads_again(tmp_path: Path, detector: LoadedModel) -> None:
    traced = trace(detector.module, images())
    mlps = find_mlps(traced)
    name, value = next((name, value) for name, value in detector.module.named_parameters() if "mlp.fc1.weight" in name)
    trained = {name: (value * 1.5).detach()}
    with torch.no_grad():
        expected = with_relu(traced, mlps, trained).graph_module(images())
        activations = [mlp.activation for mlp in mlps]
        save_relu_variant(detector, trained, tmp_path, images(), expected, activations)
        loaded = load_model(f"local-dir:{tmp_path}")
        found = loaded.module(images())
    for key in ("logits", "pred_boxes", "pred_masks"):
        torch.testing.assert_close(found[key], expected[key], atol=1e-4, rtol=1e-4)
    assert loaded.name == f"local-dir:{tmp_path}"
    assert loaded.weights_sha256 not in (detector.weights_sha256, load_model(loaded.name, False).weights_sha256)
    assert (loaded.input_size, loaded.label_names) == (detector.input_size, detector.label_names)
    assert not find_mlps(trace(loaded.module, images()))
    assert not load_model("swin_shapes", False).module.state_dict()[name].equal(trained[name])
    wrong = dict(expected, logits=expected["logits"] + 1)
    with pytest.raises(ModelError, match="is not the reconstructed model: outputs differ by"):
        save_relu_variant(detector, trained, tmp_path / "other", images(), wrong, activations)


def test_what_cannot_be_loaded_again_is_not_saved(tmp_path: Path) -> None:
    model = describe_module(torch.nn.Sequential(torch.nn.GELU()).eval(), example_input=torch.zeros(1, 3))
    with pytest.raises(ModelError, match=r"class 'Sequential' that was given as an object.*--no-mlp"):
        save_derived(model, model.module, tmp_path)


def test_a_folder_that_does_not_fit_is_named(tmp_path: Path, detector: LoadedModel) -> None:
    module = load_model("swin_shapes", pretrained=False).module
    use_relu_(module, ["backbone.layers_0.blocks.0.mlp.act"])
    save_derived(detector, module, tmp_path)
    assert derived_config(f"local-dir:{tmp_path}") is not None
    assert derived_config("local-dir:nowhere") is derived_config("swin_shapes") is None
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_model(f"local-dir:{tmp_path}")
    config = {"autoq": {"base": "swin_shapes", "relu": ["no.such.module"]}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match=r"no module 'no\.such\.module'.*correct its config.json"):
        load_model(f"local-dir:{tmp_path}")
