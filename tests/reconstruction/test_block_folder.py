"""What a block learned, kept, and found again only where everything it depends on is the same."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from autoq.graph.blocks import find_blocks
from autoq.recipe import OperandConfig
from autoq.reconstruction.block_folder import BlockFolder, BlockReport
from autoq.scoring.solved_operands import SolvedOperands
from tests.calibration.samples import images
from tests.reconstruction.small_model import calibrated, sites_of, tiny_model

REPORT = BlockReport("blocks.0", "aph", 0.5, 0.1 + 0.2, True, 3, 0.25)


def test_what_is_kept_comes_back_for_the_same_run_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    config = OperandConfig(scheme="uniform", bits=4)
    operands = calibrated(model, sites_of(model, config, config), images(4))
    embed, block = find_blocks(model)[:2]
    learned = SolvedOperands({key: each for key, each in operands.quantizers.items() if key[0] in block.sites})
    folder = BlockFolder(tmp_path, {"seed": 0})
    assert folder.read(block, model, operands) is None
    folder.write(block, learned, REPORT, operands)
    found = BlockFolder(tmp_path, {"seed": 0}).read(block, model, operands)
    assert found is not None
    assert found[1] == REPORT
    assert found[0].sites == learned.sites
    for key, quantizer in learned.quantizers.items():
        for name, value in quantizer.qparams().items():
            assert torch.equal(found[0].quantizers[key].qparams()[name], value), (key, name)
    assert folder.read(embed, model, operands) is None
    assert "reconstructed" not in caplog.text
    with caplog.at_level(logging.WARNING):
        assert BlockFolder(tmp_path, {"seed": 1}).read(block, model, operands) is None
    assert "reconstructed with other settings" in caplog.text
    # What was learned of an earlier block counts; what this block had before does not.
    earlier = next(key for key in operands.quantizers if key[0] in embed.sites)
    codes = SolvedOperands(operands.quantizers, {earlier: torch.zeros(1, dtype=torch.int32)})
    assert folder.read(block, model, codes) is None
    own = next(iter(learned.quantizers))
    codes = SolvedOperands(operands.quantizers, {own: torch.zeros(1, dtype=torch.int32)})
    assert folder.read(block, model, codes) is not None


def test_a_damaged_file_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_model()
    block = find_blocks(model)[0]
    folder = BlockFolder(tmp_path, {})
    folder.write(block, SolvedOperands({}), REPORT, SolvedOperands({}))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        assert folder.read(block, model, SolvedOperands({})) is None
    assert "is reconstructed again" in caplog.text
