"""From a model's name to the library that loads it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autoq.errors import ModelNotFoundError
from autoq.models import BUNDLED_MODEL, load_model
from tests.models.folders import message_of


@pytest.mark.parametrize(
    ("name", "config", "loader"),
    [
        ("vit_digits", None, "timm_models.load_timm_model"),
        ("hf-hub:me/mine", {"architecture": "vit_tiny_patch16_224"}, "timm_models.load_timm_model"),
        ("hf-hub:me/mine", {"model_type": "vit"}, "transformers_models.load_transformers_repository"),
        ("hf-dir:some/where", None, "transformers_models.load_transformers_folder"),
        ("python:mine:make", None, "python_models.load_python_model"),
    ],
)
def test_the_name_says_which_library_loads_it(monkeypatch, name, config, loader):
    monkeypatch.setattr("autoq.models.timm_models.hub_config", lambda _: config)
    monkeypatch.setattr(f"autoq.models.{loader}", lambda *arguments: arguments)
    assert load_model(name)[0] == name


def test_a_model_that_was_an_object_cannot_be_loaded_by_name() -> None:
    with pytest.raises(ModelNotFoundError, match="given in Python, as an object of class 'ResNet'"):
        load_model("memory:ResNet")


def test_unknown_names():
    assert "Did you mean 'deit_tiny_patch16_224'?" in message_of("deit_tiny_patch16_24")
    assert "Did you mean 'vit_digits'?" in message_of("vit_digit")
    assert "Did you mean 'deit_tiny_patch16_224.fb_in1k'?" in message_of("deit_tiny_patch16_224.fb_in22k")
    assert "''" in message_of("")
    assert "local-dir:some/where" in message_of("some/where")
    assert "'ftp:x'" in message_of("ftp:x")


def test_importing_the_package_leaves_timm_alone():
    code = "import sys, autoq.models; print({'timm', 'torchvision'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "set()"


def test_a_moved_bundle_is_not_needed(tmp_path):
    source = Path(sys.modules["autoq.models"].__file__ or "").parent / BUNDLED_MODEL
    shutil.copytree(source, tmp_path / "copy")
    assert load_model(f"local-dir:{tmp_path / 'copy'}").weights_sha256 == load_model(BUNDLED_MODEL).weights_sha256
