"""A model with trained ReLU MLPs in a directory of its own, for quantizing it afterwards (APHQ-ViT)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from autoq.errors import ModelError
from autoq.events import BlockAdvanced, BlockFinished, PhaseStarted, Progress, ignore
from autoq.models.relu_variant import save_relu_variant
from autoq.reconstruction.mlp import MlpProgress, ReconstructedMlps, reconstruct_mlps
from autoq.reconstruction.mlp_graph import Mlp, find_mlps, with_relu
from autoq.reconstruction.mlp_training import MlpSettings
from autoq.runs.directory import BaseRunDirectory
from autoq.runs.images import CalibrationImages
from autoq.runs.recipes import MODEL_FOLDER
from autoq.runs.session import Session

_TRIED_IMAGES = 8
"""Images on which the saved model is compared with the one that was trained."""


class ReluModelDirectory(BaseRunDirectory[dict[str, Any]]):
    """The trained model, beside what is made of it; its record says what it was made from."""

    holds: ClassVar[str] = "a model"
    record_name: ClassVar[str] = "mlps.json"
    foreign: ClassVar[Mapping[str, str]] = {}

    @property
    def model(self) -> Path:
        """The folder with the model in timm's format."""
        return self.path / MODEL_FOLDER

    @property
    def parts(self) -> Path:
        """The folder with the MLPs that are trained, until all are."""
        return self.path / "mlps"


def open_relu_model(
    session: Session,
    images: CalibrationImages,
    settings: MlpSettings,
    folder: Path,
    on_disk: bool = False,
    progress: Progress = ignore,
) -> Session:
    """Return the model with ReLU in its MLPs, which are trained to do what they did with GELU.

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
    directory = ReluModelDirectory(folder)
    identity: dict[str, Any] = {
        "weights_sha256": session.loaded.weights_sha256,
        "images_sha256": images.sha256,
        **asdict(settings),
    }
    record = directory.refuse_other(identity)
    known = None if record is None else _reopened(directory.model, record.get("result_sha256"), session)
    if known is not None:
        return known
    mlps, few = find_mlps(session.traced), images.tensor[:_TRIED_IMAGES]
    _check_savable(session, mlps, few)
    directory.save(identity)
    made = _train(session, images, settings, directory, on_disk, progress)
    with torch.no_grad():
        expected = made.traced.graph_module(few)
    activations = [mlp.activation for mlp in mlps]
    save_relu_variant(session.loaded, made.parameters, directory.model, few, expected, activations)
    opened = Session.open(f"local-dir:{directory.model}", device=str(session.device), task=session.task)
    directory.save(identity | {"result_sha256": opened.loaded.weights_sha256})
    shutil.rmtree(directory.parts, ignore_errors=True)
    return opened


def _check_savable(session: Session, mlps: Sequence[Mlp], images: Tensor) -> None:
    """Save the model before it is trained: if that is impossible, it is known before hours of training."""
    with tempfile.TemporaryDirectory() as elsewhere, torch.no_grad():
        untrained = with_relu(session.traced, mlps).graph_module(images)
        activations = [mlp.activation for mlp in mlps]
        save_relu_variant(session.loaded, {}, Path(elsewhere) / MODEL_FOLDER, images, untrained, activations)


def _train(
    session: Session,
    images: CalibrationImages,
    settings: MlpSettings,
    directory: ReluModelDirectory,
    on_disk: bool,
    progress: Progress,
) -> ReconstructedMlps:
    """Train every MLP, and report how each went."""
    count = len(find_mlps(session.traced))
    progress(PhaseStarted("mlp", count, f"{len(images.tensor)} images of {images.data}"))

    def advance(now: MlpProgress) -> None:
        progress(BlockAdvanced("mlp", now.name, now.index + 1, now.total, now.iteration, now.iterations, now.loss))

    states = directory.path if on_disk else None
    made = reconstruct_mlps(
        session.traced, images.tensor, settings, directory.parts, states, advance, task=session.task
    )
    for number, (name, errors) in enumerate(made.errors.items(), start=1):
        progress(BlockFinished("mlp", name, number, count, "aph", errors.before, errors.after))
    return made


def _reopened(target: Path, sha256: object, session: Session) -> Session | None:
    """Return the model that an earlier run has made; None if it is not there as it was."""
    if sha256 is None:
        return None
    try:
        opened = Session.open(f"local-dir:{target}", device=str(session.device), task=session.task)
    except ModelError:
        return None
    return opened if opened.loaded.weights_sha256 == sha256 else None
