"""Models in timm's hub format, and which of their modules are ReLUs."""

import pytest
import timm
import torch
from PIL import Image

from autoq.errors import ModelError
from autoq.models import load_model, save_model, weights_sha256
from tests.models.folders import edit_config, message_of


def test_hub_format_round_trip(folder):
    model = load_model(f"local-dir:{folder}")
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.module(images), again(images))
    assert model.weights_sha256 == weights_sha256(again)
    assert (model.name, model.input_size, model.num_classes) == (f"local-dir:{folder}", (3, 16, 16), 5)
    assert model.label_names == ("class 0", "class 1", "class 2", "class 3", "class 4")
    assert not model.module.training
    assert model.module.blocks[0].attn.fused_attn is False


def test_a_loaded_model_can_be_saved_again(folder, tmp_path):
    model = load_model(f"local-dir:{folder}")
    save_model(model.module, tmp_path / "copy")
    copy = load_model(f"local-dir:{tmp_path / 'copy'}")
    assert copy.weights_sha256 == model.weights_sha256
    assert copy.label_names == model.label_names
    assert copy.input_size == model.input_size
    image = Image.effect_noise((30, 20), 80)
    assert torch.equal(copy.transform(image), model.transform(image))


def test_saving_what_cannot_be_saved(folder, tmp_path):
    with pytest.raises(ModelError, match="Linear was not created by timm"):
        save_model(torch.nn.Linear(2, 2), tmp_path / "linear")
    module = load_model(f"local-dir:{folder}").module
    with pytest.raises(ModelError, match=r"vit_tiny_patch16_224.*JSON"):
        save_model(module, tmp_path / "odd", model_args={"norm_layer": torch.nn.LayerNorm})
    assert not (tmp_path / "odd").exists()


def test_modules_that_a_config_names_become_relu(folder):
    plain = load_model(f"local-dir:{folder}")
    edit_config(folder, autoq={"relu": ["blocks.0.mlp.act"]})
    for pretrained in (True, False):
        model = load_model(f"local-dir:{folder}", pretrained=pretrained)
        assert isinstance(model.module.blocks[0].mlp.act, torch.nn.ReLU)
        assert isinstance(timm.create_model(f"local-dir:{folder}").blocks[0].mlp.act, torch.nn.GELU)
    model = load_model(f"local-dir:{folder}")
    assert weights_sha256(model.module) == weights_sha256(plain.module) == plain.weights_sha256 != model.weights_sha256
    assert model.weights_sha256 == load_model(f"local-dir:{folder}").weights_sha256


@pytest.mark.parametrize(
    ("own", "reason"),
    [
        ({"relu": ["blocks.0.mlp.act", "blocks.9.mlp.act"]}, "no module 'blocks.9.mlp.act' that ReLU could replace"),
        ({"relu": ["blocks.0.mlp.fc1"]}, "module 'blocks.0.mlp.fc1' has weights: ReLU cannot replace it"),
        ({"relu": ["blocks.0.mlp.fc1.weight"]}, "no module 'blocks.0.mlp.fc1.weight'"),
        ({"relu": [""]}, "must be {'relu': [module paths]}"),
        ({"relu": "blocks.0.mlp.act"}, """'autoq' is {"relu": "blocks.0.mlp.act"}, but must be"""),
        ({"relu": {"blocks.0.mlp.act": 1}}, "must be"),
        ({"relu": [3]}, "must be"),
        ({"gelu": []}, "must be"),
        (["relu"], "must be"),
        (None, "'autoq' is null"),
        ({"relu": [7] * 999}, "7, 7..., but must be"),
    ],
)
def test_replacements_that_make_no_sense(folder, own, reason):
    edit_config(folder, autoq=own)
    text = message_of(f"local-dir:{folder}")
    assert text.startswith(f"model 'local-dir:{folder}': ")
    assert reason in text
    assert text.endswith("; correct its config.json")
