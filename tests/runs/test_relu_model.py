"""A model with ReLU in its MLPs: trained once, found again, refused where it is another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from autoq.errors import RunDirectoryError
from autoq.events import BlockFinished, Event, PhaseStarted
from autoq.reconstruction.mlp_training import MlpSettings
from autoq.runs.relu_model import ReluModelDirectory, open_relu_model
from tests.runs.small_run import small_session

SETTINGS = MlpSettings(iterations=1, batch_size=4)


def test_it_is_trained_once(tmp_path: Path) -> None:
    session = small_session()
    images = session.calibration_images("digits", 4, 0)
    events: list[Event] = []
    made = open_relu_model(session, images, SETTINGS, tmp_path, progress=events.append)
    assert events[0] == PhaseStarted("mlp", 4, "4 images of digits")
    assert len([event for event in events if isinstance(event, BlockFinished)]) == 4
    assert {operand.producer for _, operand in made.traced.operands()} >= {"relu"}
    directory = ReluModelDirectory(tmp_path)
    assert directory.require()["result_sha256"] == made.loaded.weights_sha256
    assert not directory.parts.exists()

    events.clear()
    again = open_relu_model(session, images, SETTINGS, tmp_path, progress=events.append)
    assert events == []
    few = images.tensor.clone()
    assert torch.equal(made.model.run(few)[0], again.model.run(few)[0])

    with pytest.raises(RunDirectoryError, match=r"holds a model with another iterations \(was 1, is 2\)"):
        open_relu_model(session, images, MlpSettings(iterations=2, batch_size=4), tmp_path)
    with pytest.raises(RunDirectoryError, match="holds a model with another images_sha256"):
        open_relu_model(session, session.calibration_images("digits", 4, 1), SETTINGS, tmp_path)
    directory.record_path.write_text(json.dumps([1]))
    with pytest.raises(RunDirectoryError, match=r"mlps\.json' is damaged"):
        open_relu_model(session, images, SETTINGS, tmp_path)
