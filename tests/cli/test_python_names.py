"""Models and images that a user's own code makes, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoq.recipe import Recipe
from tests.cli.command import Command

CODE = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.GELU(), nn.Linear(16, 3)).eval()
    return layers, torch.zeros(1, 3, 4, 4)

def images():
    return torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(1))

def labelled():
    return images(), torch.arange(40) % 3
"""


@pytest.mark.slow
def test_a_model_of_ones_own_on_images_of_ones_own(tmp_path: Path, plain_command: Command) -> None:
    (tmp_path / "mine_of_tests.py").write_text(CODE)
    names = [f"python:{tmp_path}/mine_of_tests.py:{name}" for name in ("model", "images", "labelled")]
    out = tmp_path / "run"
    small = ["--trials", "8", "--calib-images", "16", "--space", "bits_only", "--budget-bops", "w4a4", "--json"]
    data = ["--data", names[1], "--eval-data", names[2]]
    found = json.loads(plain_command("search", "--model", names[0], *data, *small, "--out", str(out)).out)
    path = next(point["recipe"] for point in found["front"] if point["id"] == found["best"])
    recipe = Recipe.load(path)
    assert recipe.model.name == names[0]
    assert recipe.calibration is not None
    assert recipe.calibration.data == names[1]
    measured = json.loads(plain_command("evaluate", path, "--data", names[2], "--json").out)
    assert measured["images"] == 40
    assert recipe.score is not None
    assert measured["top1_percent"] == recipe.score.metrics["top1_percent"]
    assert json.loads(plain_command("evaluate", path, "--json").out)["kl_nats"] == recipe.score.kl_nats
