"""APHQ-ViT as a whole: MLPs with ReLU, a model of its own, calibration and reconstruction, wherever it is stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoq.errors import ModelError, RunDirectoryError
from autoq.events import BlockAdvanced, BlockFinished, Event, PhaseStarted
from autoq.methods import BitWidths, MethodOptions, create_method
from autoq.recipe import Recipe
from autoq.runs.evaluate import evaluate_recipe
from autoq.runs.quantize import QuantizeSettings, quantize
from autoq.runs.session import Session
from autoq.tasks import make_task
from tests.runs.small_run import interrupt_at, small_session

IMAGES = 12
WIDTHS = BitWidths(3, 3, 3)
FILES = {
    ".lock",
    "recipe.json",
    "recipe.safetensors",
    "reconstruction.csv",
    "reconstruction.json",
    "bank",
    "mlps.json",
    "model",
}


def run(
    out: Path, progress: Callable[[Event], None] = lambda _: None, images: int = IMAGES, **options: object
) -> Recipe:
    method = create_method("aphq-vit", MethodOptions(**({"iterations": 2} | options)))  # type: ignore[arg-type]
    return quantize(small_session(), method, WIDTHS, QuantizeSettings("digits", out, images), progress)


def trained(events: list[Event], phase: str) -> list[str]:
    return list(dict.fromkeys(e.name for e in events if isinstance(e, BlockAdvanced) and e.phase == phase))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run, not to be written to."""
    folder = tmp_path_factory.mktemp("aphq") / "whole"
    run(folder)
    return folder


def test_the_recipe_is_of_a_model_of_its_own(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == FILES
    recipe = Recipe.load(whole / "recipe.json")
    assert recipe.model.name == f"local-dir:{whole / 'model'}"
    assert recipe.model.weights_sha256 != small_session().loaded.weights_sha256
    assert recipe.method == "aphq-vit w3a3"
    assert recipe.reconstruction is not None
    assert recipe.reconstruction.iterations == 2
    assert set(recipe.reparameterized.values()) == {3}
    relu = Session.open(recipe.model.name, device="cpu")
    producers = {operand.producer for _, operand in relu.traced.operands()}
    assert "relu" in producers
    assert "gelu" not in producers
    assert recipe.score is not None
    assert recipe.score.images == IMAGES


def test_it_reproduces_its_score_where_it_was_moved_to(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "moved")
    recipe = Recipe.load(tmp_path / "moved" / "recipe.json")
    gone = recipe.model_copy(update={"model": recipe.model.model_copy(update={"name": "local-dir:gone/model"})})
    shutil.rmtree(tmp_path / "moved" / "bank")
    assert recipe.score is not None
    assert evaluate_recipe(gone.located(tmp_path / "moved")).score.kl_nats == recipe.score.kl_nats


@pytest.mark.parametrize(("phase", "name"), [("mlp", "blocks.1.mlp"), ("reconstruction", "blocks.2")])
def test_an_interrupted_run_goes_on_and_ends_the_same(whole: Path, tmp_path: Path, phase: str, name: str) -> None:
    def there(event: Event) -> bool:
        return isinstance(event, BlockAdvanced) and (event.phase, event.name) == (phase, name)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", interrupt_at(there))
    assert not (tmp_path / "out" / "recipe.json").exists()
    events: list[Event] = []
    run(tmp_path / "out", events.append)
    mlps, blocks = trained(events, "mlp"), trained(events, "reconstruction")
    if phase == "mlp":
        assert mlps == ["blocks.1.mlp", "blocks.2.mlp", "blocks.3.mlp"]
    else:
        assert (mlps, blocks) == ([], ["blocks.2", "blocks.3", "head"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    for file in ("recipe.safetensors", "model/model.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (whole / file).read_bytes()


def test_a_finished_run_is_only_measured_again(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    events: list[Event] = []
    again = run(tmp_path / "out", events.append)
    assert not [event for event in events if isinstance(event, BlockAdvanced | BlockFinished)]
    assert again.score == Recipe.load(whole / "recipe.json").score


def test_other_settings_there_are_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunDirectoryError, match=r"holds a model with another iterations \(was 2, is 3\)"):
        run(tmp_path / "out", iterations=3)
    with pytest.raises(RunDirectoryError, match="holds a reconstruction with another importance"):
        run(tmp_path / "out", importance="mse")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_changed_model_is_made_again(whole: Path, tmp_path: Path) -> None:
    """What lies there must be what was trained."""
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / "model" / "model.safetensors").unlink()
    events: list[Event] = []
    run(tmp_path / "out", events.append)
    assert len(trained(events, "mlp")) == 4
    assert trained(events, "reconstruction") == []
    for file in ("recipe.safetensors", "model/model.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (whole / file).read_bytes()


def test_without_mlps(tmp_path: Path) -> None:
    events: list[Event] = []
    recipe = run(tmp_path, events.append, mlp=False, importance="mse", on_disk=True)
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"model", "mlps.json"}
    assert recipe.model.name == "vit_digits"
    assert recipe.reconstruction is not None
    assert recipe.reconstruction.importance == "mse"
    assert "mlp" not in {event.phase for event in events if isinstance(event, PhaseStarted)}


def test_quantizers_are_calibrated_on_some_of_the_images(tmp_path: Path) -> None:
    recipe = run(tmp_path, images=140, mlp=False, importance="mse", iterations=1)
    assert recipe.calibration is not None
    assert recipe.reconstruction is not None
    assert recipe.score is not None
    assert (recipe.calibration.images, recipe.reconstruction.images, recipe.score.images) == (128, 140, 128)


def test_a_model_without_mlps_is_refused(tmp_path: Path, whole: Path) -> None:
    relu = Session.open(f"local-dir:{whole / 'model'}", device="cpu")
    method = create_method("aphq-vit", MethodOptions(iterations=1))
    with pytest.raises(ModelError, match="no GELU"):
        quantize(relu, method, WIDTHS, QuantizeSettings("digits", tmp_path / "out", IMAGES))
    assert not (tmp_path / "out").exists()


def test_the_papers_settings() -> None:
    method = create_method("aphq-vit")
    training, mlps = method.reconstruction_settings(7), method.mlp_settings(7, WIDTHS)
    assert training is not None
    assert mlps is not None
    assert (training.seed, mlps.seed, training.importance, training.batch, training.drop) == (7, 7, "aph", 32, 0.5)
    assert method.images == 1024
    assert create_method("rtn").reconstruction_settings(0) is None
    assert create_method("rtn").mlp_settings(0, WIDTHS) is None
    changed = create_method("aphq-vit", MethodOptions(iterations=5, importance="brecq", bfloat16=True))
    training, mlps = changed.reconstruction_settings(0), changed.mlp_settings(0, WIDTHS)
    assert training is not None
    assert mlps is not None
    assert (training.iterations, training.importance, training.bfloat16, mlps.iterations) == (5, "brecq", True, 5)


def test_full_precision_of_the_given_model_is_not_touched(tmp_path: Path) -> None:
    session = small_session()
    session.model.remove_()
    images = torch.randn(3, *session.loaded.input_size, generator=torch.Generator().manual_seed(0))
    before = session.traced.graph_module(images)
    run(tmp_path)
    assert torch.equal(session.traced.graph_module(images), before)
    assert torch.equal(session.loaded.module(images), before)


def test_published_settings() -> None:
    method = create_method("aphq-vit", MethodOptions(protocol="published"))
    training = method.reconstruction_settings(0)
    assert training is not None
    assert (training.iterations, training.rounding_rate, training.rate_of(7.0)) == (20_000, 1e-3, 4e-5)
    assert (training.protocol, training.regularization) == ("published", 0.01)
    for text, quantile in (("w4a4", 0.98), ("w6a6", 0.99)):
        mlps = method.mlp_settings(0, BitWidths.parse(text))
        assert mlps is not None
        found = (mlps.iterations, mlps.learning_rate, mlps.inputs, mlps.clamp_quantile, mlps.train_norm)
        assert found == (20_000, 4e-5, "original", quantile, False)
    quick = create_method("aphq-vit", MethodOptions(protocol="published", iterations=3)).reconstruction_settings(0)
    assert quick is not None
    assert (quick.iterations, quick.rounding_rate) == (3, 1e-3)
    assert method.attention_map(4).granularity == "head"


def test_published_settings_for_detectors() -> None:
    """One image to start from, 256 to train on one by one, with MLPs clamped less."""
    method, own = (create_method("aphq-vit", MethodOptions(protocol=name)) for name in ("published", "autoq"))
    method, own = (each.for_task(make_task("detection")) for each in (method, own))
    assert (method.starting_images, method.calibration_images, method.settings(0).fpcs.images) == (1, 256, 1)
    assert (own.starting_images, own.calibration_images) == (128, 1024)
    training, mlps = method.reconstruction_settings(0), method.mlp_settings(0, BitWidths.parse("w4a4"))
    assert training is not None
    assert mlps is not None
    assert (training.batch, mlps.batch_size, mlps.clamp_quantile) == (1, 1, 0.999)
    classifier = create_method("aphq-vit", MethodOptions(protocol="published")).for_task(make_task("classification"))
    assert classifier.settings(0).fpcs.images == 128
