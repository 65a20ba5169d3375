import json
import logging
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from autoq.errors import ModelError
from autoq.models import BUNDLED_MODEL, load_model, save_model, weights_sha256


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    """Neither a server nor somebody's cache of weights."""

    def refuse(*_args, **_kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """A small model in timm's hub format, with RGB input and five named classes."""
    module = timm.create_model("vit_tiny_patch16_224", img_size=16, embed_dim=24, depth=1, num_heads=2, num_classes=5)
    names = [f"class {index}" for index in range(5)]
    path = tmp_path / "model"
    save_model(module, path, data_config={"input_size": (3, 16, 16), "crop_pct": 1.0}, label_names=names)
    return path


def message_of(name: str, **options) -> str:
    with pytest.raises(ModelError) as raised:
        load_model(name, **options)
    text = str(raised.value)
    assert "\n" not in text
    return text


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


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "LA"])
def test_images_of_any_mode_become_the_models_input(folder, mode):
    image = Image.new(mode, (40, 30))
    for name in (f"local-dir:{folder}", BUNDLED_MODEL):
        model = load_model(name)
        tensor = model.transform(image)
        assert (tuple(tensor.shape), tensor.dtype) == (model.input_size, torch.float32)


def test_transparent_palettes_are_converted_quietly(folder):
    image = Image.new("P", (40, 30))
    image.info["transparency"] = b"\x00\x80"
    model = load_model(f"local-dir:{folder}")
    assert tuple(model.transform(image).shape) == model.input_size


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


def test_unknown_names():
    assert "Did you mean 'deit_tiny_patch16_224'?" in message_of("deit_tiny_patch16_24")
    assert "Did you mean 'vit_digits'?" in message_of("vit_digit")
    assert "Did you mean 'deit_tiny_patch16_224.fb_in1k'?" in message_of("deit_tiny_patch16_224.fb_in22k")
    assert "''" in message_of("")
    assert "local-dir:some/where" in message_of("some/where")
    assert "'ftp:x'" in message_of("ftp:x")


def test_weights_that_cannot_be_downloaded_fail_at_once(caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        assert "--no-pretrained" in message_of("deit_tiny_patch16_224")
        text = message_of("hf-hub:timm/deit_tiny_patch16_224.fb_in1k")
    assert "cannot be reached" in text
    assert "--no-pretrained" not in text
    assert not [record for record in caplog.records if record.name.startswith(("timm", "huggingface_hub"))]


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


def edit_config(folder: Path, **changes) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


def test_weights_sha256_tells_names_shapes_and_dtypes_apart():
    layers = [torch.nn.Linear(2, 3), torch.nn.Linear(3, 2), torch.nn.Linear(2, 3).bfloat16(), torch.nn.Conv2d(1, 2, 1)]
    for layer in layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    hashes = [weights_sha256(layer) for layer in layers]
    assert len(set(hashes)) == len(layers)
    assert weights_sha256(torch.nn.Sequential(layers[0])) not in hashes
    assert weights_sha256(torch.nn.BatchNorm2d(2)) == weights_sha256(torch.nn.BatchNorm2d(2))


def test_importing_the_package_leaves_timm_alone():
    code = "import sys, autoq.models; print({'timm', 'torchvision'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "set()"


def test_a_moved_bundle_is_not_needed(tmp_path):
    source = Path(sys.modules["autoq.models"].__file__ or "").parent / BUNDLED_MODEL
    shutil.copytree(source, tmp_path / "copy")
    assert load_model(f"local-dir:{tmp_path / 'copy'}").weights_sha256 == load_model(BUNDLED_MODEL).weights_sha256
