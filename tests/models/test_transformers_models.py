from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from autoq.errors import ModelError
from autoq.models import load_model

transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "vit"
    torch.manual_seed(7)
    config = transformers.ViTConfig(
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=16,
        patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "emu"},
        label2id={"cat": 0, "dog": 1, "emu": 2},
    )
    transformers.ViTForImageClassification(config).save_pretrained(path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(path)
    return path


def test_a_folder_of_transformers_loads_with_its_processor_and_labels(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = load_model(f"hf-dir:{folder}")
    assert capfd.readouterr() == ("", ""), "no bars, no warnings"
    assert loaded.name == f"hf-dir:{folder}"
    assert (loaded.input_size, loaded.num_classes, loaded.label_names) == ((3, 16, 16), 3, ("cat", "dog", "emu"))
    assert not loaded.module.training
    assert loaded.module.config._attn_implementation == "eager"
    assert loaded.transform is not None
    image = loaded.transform(Image.new("L", (30, 20), 255))
    assert torch.allclose(image, torch.ones(3, 16, 16))  # (255 / 255 - 0.5) / 0.5
    again = transformers.ViTForImageClassification.from_pretrained(folder, attn_implementation="eager").eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded.module(images).logits, again(images).logits)


def test_random_weights_are_the_same_each_time(folder: Path) -> None:
    first, second = (load_model(f"hf-dir:{folder}", pretrained=False) for _ in range(2))
    assert first.weights_sha256 == second.weights_sha256 != load_model(f"hf-dir:{folder}").weights_sha256
    assert load_model(f"hf-dir:{folder}", pretrained=False, seed=1).weights_sha256 != first.weights_sha256


def test_folders_of_another_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="Did you mean 'vit'"):
        load_model(f"hf-dir:{folder.parent}/vti")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_model(f"hf-dir:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224"}))
    with pytest.raises(ModelError, match="write 'local-dir:"):
        load_model(f"hf-dir:{tmp_path}")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        load_model(f"hf-dir:{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no 'model_type'"):
        load_model(f"hf-dir:{tmp_path}")


def test_missing_weights_are_told(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ModelError) as raised:
        load_model(f"hf-dir:{tmp_path}")
    assert "\n" not in str(raised.value)
    assert "cannot be loaded" in str(raised.value) or "cannot be downloaded" in str(raised.value)


def test_placeholder_labels_are_no_names(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["id2label"] = {str(index): f"LABEL_{index}" for index in range(3)}
    config["label2id"] = {f"LABEL_{index}": index for index in range(3)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model(f"hf-dir:{tmp_path}").label_names is None


def test_the_hub_says_which_library_a_model_is_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def download(repository: str, name: str, revision: str | None = None) -> str:
        assert (repository, name, revision) == ("owner/vit", "config.json", "v2")
        return str(folder / "config.json")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loads = []
    module = transformers.ViTForImageClassification.from_pretrained(folder)
    for cls in (transformers.AutoConfig, transformers.AutoImageProcessor):
        original = cls.from_pretrained

        def local(name: str, *, original=original, **options: object) -> object:  # type: ignore[no-untyped-def]
            loads.append((name, options.get("revision"), options["local_files_only"]))
            return original(folder)

        monkeypatch.setattr(cls, "from_pretrained", local)
    monkeypatch.setattr(transformers.ViTForImageClassification, "from_pretrained", lambda *_, **__: module)
    loaded = load_model("hf-hub:owner/vit@v2")
    assert loaded.num_classes == 3
    assert loads == [("owner/vit", "v2", False)] * 2


def test_a_detector_is_fed_whole_images_at_one_size(tmp_path: Path) -> None:
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", out_features=["stage1", "stage2"]
    )
    settings = {"num_feature_levels": 2, "feat_strides": [4, 8], "encode_proj_layers": [1], "num_labels": 3}
    widths = {"encoder_in_channels": [4, 8], "decoder_in_channels": [8, 8], "encoder_hidden_dim": 8, "d_model": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5, "decoder_layers": 1}
    config = transformers.RTDetrConfig(backbone_config=backbone, **settings, **widths, **heads)
    transformers.RTDetrForObjectDetection(config).save_pretrained(tmp_path)
    transformers.RTDetrImageProcessor(size={"height": 32, "width": 48}).save_pretrained(tmp_path)
    loaded = load_model(f"hf-dir:{tmp_path}")
    assert (loaded.input_size, loaded.num_classes) == ((3, 32, 48), 3)
    assert loaded.transform is not None
    image = loaded.transform(Image.new("RGB", (50, 20), (255, 0, 0)))
    assert torch.allclose(image, torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 32, 48))
