"""Models that are changed by what images or a bank say; full precision stays."""

from __future__ import annotations

from pathlib import Path

import torch

from autoq.calibration.settings import CalibrationSettings
from autoq.recipe import OperandConfig
from autoq.runs.images import CalibrationImages
from autoq.runs.transforming import known_of, rescale_for, rotate_for
from tests.runs.small_run import small_session

SETTINGS = CalibrationSettings(observer="min_max")


def test_reparameterized_layer_norms_change_the_graph_alone() -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    assert rescale_for(session, {}, lambda: images, CalibrationSettings()) is session
    norms = {"blocks.0.norm1": 4}
    seen: list[int] = []
    rescaled = rescale_for(session, norms, lambda: images, CalibrationSettings(), progress=seen.append)
    assert sum(seen) == 8
    assert (rescaled.reparameterized, set(rescaled.folded.factors)) == (norms, set(norms))
    site = "blocks.0.attn.qkv"
    assert not torch.equal(rescaled.traced.weight(site), session.traced.weight(site))
    with torch.inference_mode():
        assert torch.allclose(rescaled.model.run(images.tensor)[0], session.model.run(images.tensor)[0], atol=1e-4)
    again = session.rescaled_by(norms, rescaled.folded.factors)
    assert torch.equal(again.traced.weight(site), rescaled.traced.weight(site))
    assert session.bank(lambda: images, images.sha256, SETTINGS).fingerprint != (
        rescaled.bank(lambda: images, images.sha256, SETTINGS).fingerprint
    )


def test_rotations_change_the_graph_alone(tmp_path: Path) -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    assert session.rotated_by({}) is session
    seen: list[int] = []
    rotated = rotate_for(session, lambda: images, progress=seen.append)
    assert sum(seen) == 8
    assert "patch_embed.proj" in rotated.rotated
    site = "blocks.0.attn.qkv"
    assert not torch.equal(rotated.traced.weight(site), session.traced.weight(site))
    with torch.inference_mode():
        assert torch.allclose(rotated.model.run(images.tensor)[0], session.model.run(images.tensor)[0], atol=1e-4)
    assert torch.equal(session.rotated_by(rotated.rotated).traced.weight(site), rotated.traced.weight(site))
    banks = [each.bank(lambda: images, images.sha256, SETTINGS) for each in (session, rotated)]
    assert banks[1].description == banks[0].description | {"rotated": rotated.rotated}
    banks[1].solve_all([("head", "input", OperandConfig(scheme="uniform", bits=4))])
    banks[1].save(tmp_path)

    def not_needed() -> CalibrationImages:
        raise AssertionError("the bank names the rotations")

    assert rotate_for(session, not_needed, known_of(session, tmp_path)).rotated == rotated.rotated
    both = rescale_for(rotated, {"blocks.0.norm1": 4}, lambda: images, CalibrationSettings())
    assert both.rotated == rotated.rotated
    with torch.inference_mode():
        assert torch.allclose(both.model.run(images.tensor)[0], session.model.run(images.tensor)[0], atol=1e-4)


def test_factors_are_read_from_a_bank(tmp_path: Path) -> None:
    session = small_session()
    images = session.calibration_images("digits", 8, 0)
    rescaled = rescale_for(session, {"blocks.0.norm1": 4}, lambda: images, CalibrationSettings())
    bank = rescaled.bank(lambda: images, images.sha256, SETTINGS)
    bank.solve_all([("head", "input", OperandConfig(scheme="uniform", bits=4))])
    bank.save(tmp_path)

    def not_needed() -> CalibrationImages:
        raise AssertionError("the bank has the factors")

    known = known_of(session, tmp_path)
    read = rescale_for(session, {"blocks.0.norm1": 4}, not_needed, CalibrationSettings(), known)
    assert torch.equal(read.traced.weight("blocks.0.attn.qkv"), rescaled.traced.weight("blocks.0.attn.qkv"))
    other = rescale_for(session, {"blocks.1.norm1": 4}, lambda: images, CalibrationSettings(), known)
    assert set(other.folded.factors) == {"blocks.1.norm1"}
