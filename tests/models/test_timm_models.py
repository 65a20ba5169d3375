"""Models of timm: by name, from folders, from the hub."""

import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from autoq.models import BUNDLED_MODEL, load_model, save_model
from tests.models.folders import edit_config, message_of


def test_random_weights_come_back_and_leave_the_generator_alone():
    state = torch.random.get_rng_state()
    first, second = (load_model("deit_tiny_patch16_224", pretrained=False, seed=1) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.weights_sha256 == second.weights_sha256
    assert first.weights_sha256 != load_model("deit_tiny_patch16_224", pretrained=False, seed=2).weights_sha256
    assert (first.input_size, first.num_classes) == ((3, 224, 224), 1000)
    assert first.label_names is not None
    assert first.label_names[0] == "n01440764"


def test_random_weights_are_the_same_in_another_process():
    code = "from autoq.models import load_model; print(load_model('vit_digits', False, 4, 5).weights_sha256)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    model = load_model(BUNDLED_MODEL, pretrained=False, num_classes=4, seed=5)
    assert result.stdout.strip() == model.weights_sha256
    assert (model.num_classes, model.label_names) == (4, None)


def test_a_new_head_keeps_the_other_weights(folder):
    model, other = load_model(f"local-dir:{folder}"), load_model(f"local-dir:{folder}", num_classes=3)
    assert torch.equal(model.module.blocks[0].mlp.fc1.weight, other.module.blocks[0].mlp.fc1.weight)
    assert (other.num_classes, other.module.head.out_features, other.label_names) == (3, 3, None)


def test_names_without_weights():
    name = "vit_small_resnet26d_224"
    assert f"timm has no weights for {name!r}: use --no-pretrained" in message_of(name)


def test_missing_folder(folder):
    assert "Did you mean 'model'?" in message_of(f"local-dir:{folder.parent / 'modle'}")
    message_of(f"local-dir:{folder.parent / 'zzz' / 'yyy'}")


def test_folder_without_config(folder):
    (folder / "config.json").unlink()
    assert "no config.json" in message_of(f"local-dir:{folder}")


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\ufffe"])
def test_broken_config(folder, content):
    (folder / "config.json").write_text(content, encoding="utf-16")
    assert "config.json" in message_of(f"local-dir:{folder}")
    (folder / "config.json").write_text(content, encoding="utf-8")
    assert "config.json" in message_of(f"local-dir:{folder}")


def test_config_with_an_unknown_architecture(folder):
    edit_config(folder, architecture="vit_tiny_patch16_22")
    assert "Did you mean 'vit_tiny_patch16_224'?" in message_of(f"local-dir:{folder}")


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "no weights" in message_of(f"local-dir:{folder}")
    assert load_model(f"local-dir:{folder}", pretrained=False).num_classes == 5


def test_weights_of_another_model(folder):
    state = load_file(folder / "model.safetensors")
    state["extra.weight"] = torch.zeros(2)
    save_file(state, folder / "model.safetensors")
    assert "do not fit its architecture: Unexpected key(s)" in message_of(f"local-dir:{folder}")


def test_weights_of_another_size(folder):
    edit_config(folder, model_args={"img_size": 16, "embed_dim": 48, "depth": 1, "num_heads": 2})
    assert "do not fit its architecture: size mismatch" in message_of(f"local-dir:{folder}")


def test_arguments_the_architecture_does_not_take(folder):
    edit_config(folder, model_args={"bogus": 1})
    assert "'bogus'; check its config.json" in message_of(f"local-dir:{folder}")


def test_truncated_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert f"'local-dir:{folder}'" in message_of(f"local-dir:{folder}")


def test_models_that_do_not_take_images(folder):
    module = timm.create_model("vit_tiny_patch16_224", img_size=16, in_chans=5, embed_dim=24, depth=1, num_heads=2)
    save_model(module, folder, data_config={"input_size": (5, 16, 16), "mean": [0.5] * 5, "std": [0.5] * 5})
    assert "takes 5 channels" in message_of(f"local-dir:{folder}")


def test_modules_that_the_config_of_a_hub_model_names_become_relu(folder, monkeypatch):
    edit_config(folder, autoq={"relu": ["blocks.0.mlp.act"]})
    asked = []

    def fetch(repository, name, revision=None, **_options):
        asked.append((repository, name, revision))
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", fetch)
    for name, revision in (("hf-hub:me/mine", None), ("hf-hub:me/mine@main", "main")):
        model = load_model(name, pretrained=False)
        assert isinstance(model.module.blocks[0].mlp.act, torch.nn.ReLU)
        assert set(asked) == {("me/mine", "config.json", revision)}
        asked.clear()
    edit_config(folder, autoq={"relu": ["nowhere"]})
    assert "model 'hf-hub:me/mine': there is no module 'nowhere'" in message_of("hf-hub:me/mine", pretrained=False)
