"""A model with trained ReLU MLPs in a directory of its own, for quantizing it afterwards (APHQ-ViT)."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from autoq.errors import ModelError
from autoq.events import BlockAdvanced, BlockFinished, PhaseStarted, Progress, ignore
from autoq.files import write_text
from autoq.models.relu_variant import save_relu_variant
from autoq.reconstruction.mlp import MlpProgress, reconstruct_mlps
from autoq.reconstruction.mlp_graph import find_mlps, with_relu
from autoq.reconstruction.mlp_training import MlpSettings
from autoq.runs.images import CalibrationImages
from autoq.runs.recipes import MODEL_FOLDER
from autoq.runs.reconstruction_dir import load_record, refuse_differing
from autoq.runs.session import Session

_RECORD, _PARTS = "mlps.json", "mlps"
_TRIED_IMAGES = 8
"""Images on which the saved model is compared with the one that was trained."""


def open_relu_model(
    session: Session,
    images: CalibrationImages,
    settings: MlpSettings,
    folder: Path,
    on_disk: bool = False,
    progress: Progress = ignore,
) -> Session:
    """The model with ReLU in its MLPs, which are trained to do what they did with GELU.

    It is kept in ``folder/model`` in timm's hub format, and what it was made from in ``folder/mlps.json``: the same
    model, images and settings give what is there. Training that was interrupted goes on after the last finished MLP.

    Args:
        session: the model with GELU.
        images: to learn from.
        settings: how MLPs are trained.
        folder: an existing directory.
        on_disk: keep activations in temporary files rather than in memory.
        progress: told what happens.

    Raises:
        ModelError: the model has no MLP with GELU, or timm cannot build it with ReLU and a GELU is no module
            of its own.
        RunDirectoryError: the directory has a model that was made of something else.
        CalibrationError: training diverged.
        OSError: a file cannot be written.
    """
    target = folder / MODEL_FOLDER
    identity: dict[str, Any] = {
        "weights_sha256": session.loaded.weights_sha256,
        "images_sha256": images.sha256,
        **asdict(settings),
    }
    record = load_record(folder / _RECORD)
    if record is not None:
        refuse_differing(folder, "a model", record, identity)
        if (known := _reopened(target, record.get("result_sha256"), session)) is not None:
            return known
    mlps, few = find_mlps(session.traced), images.tensor[:_TRIED_IMAGES]
    activations = [mlp.activation for mlp in mlps]
    # If it cannot be saved, that is known before hours of training.
    with tempfile.TemporaryDirectory() as elsewhere, torch.no_grad():
        untrained = with_relu(session.traced, mlps).graph_module(few)
        save_relu_variant(session.loaded, {}, Path(elsewhere) / MODEL_FOLDER, few, untrained, activations)
    _write(folder, identity, None)
    progress(PhaseStarted("mlp", len(mlps), f"{len(images.tensor)} images of {images.data}"))

    def advance(now: MlpProgress) -> None:
        progress(BlockAdvanced("mlp", now.name, now.index + 1, now.total, now.iteration, now.iterations, now.loss))

    states = folder if on_disk else None
    made = reconstruct_mlps(
        session.traced, images.tensor, settings, folder / _PARTS, states, advance, task=session.task
    )
    for number, (name, errors) in enumerate(made.errors.items(), start=1):
        progress(BlockFinished("mlp", name, number, len(made.errors), "aph", errors.before, errors.after))
    with torch.no_grad():
        expected = made.traced.graph_module(few)
    save_relu_variant(session.loaded, made.parameters, target, few, expected, activations)
    opened = Session.open(f"local-dir:{target}", device=str(session.device), task=session.task)
    _write(folder, identity, opened.loaded.weights_sha256)
    shutil.rmtree(folder / _PARTS, ignore_errors=True)
    return opened


def _reopened(target: Path, sha256: object, session: Session) -> Session | None:
    """The model that an earlier run has made; None if it is not there as it was."""
    if sha256 is None:
        return None
    try:
        opened = Session.open(f"local-dir:{target}", device=str(session.device), task=session.task)
    except ModelError:
        return None
    return opened if opened.loaded.weights_sha256 == sha256 else None


def _write(folder: Path, identity: dict[str, Any], result_sha256: str | None) -> None:
    result = {} if result_sha256 is None else {"result_sha256": result_sha256}
    write_text(folder / _RECORD, json.dumps(identity | result, indent=1) + "\n")
