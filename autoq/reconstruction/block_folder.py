"""Files with the learned operands of each block, by which an interrupted reconstruction is resumed."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoq.errors import RecipeError
from autoq.graph.blocks import Block
from autoq.graph.insert import QuantizedModel
from autoq.scoring.solved_operands import SolvedOperands, read_operands, write_operands

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockReport:
    """The outcome of one block.

    Attributes:
        name: of the block.
        loss: what was minimised: ``kl``, or the importance by which squared errors were weighted.
        before: the loss over all images as calibrated.
        after: the same with what was learned.
        kept: whether what was learned is used; not where it is no better.
        iterations: how many were run.
        seconds: time that they took.
    """

    name: str
    loss: str
    before: float
    after: float
    kept: bool
    iterations: int
    seconds: float


@dataclass(frozen=True)
class BlockFolder:
    """A file for each block.

    Attributes:
        folder: an existing one.
        identity: what the model, its quantizers, the images and the settings are; plain JSON.
    """

    folder: Path
    identity: Mapping[str, Any]

    def read(
        self, block: Block, model: QuantizedModel, before: SolvedOperands
    ) -> tuple[SolvedOperands, BlockReport] | None:
        """Return what was learned of a block; None if nothing was, or of something else.

        Args:
            block: which.
            model: the model.
            before: all operands, those of earlier blocks as they were learned.
        """
        path = self._path(block)
        if not path.exists():
            return None
        try:
            found = read_operands(path, model)
            report = BlockReport(**found.description["report"])
            depends_on = found.description["depends_on"]
        except (RecipeError, KeyError, TypeError) as error:
            _logger.warning("block %s is reconstructed again: %s", block.name, error)
            return None
        if depends_on != self._fingerprint(block, before):
            _logger.warning("block %s was reconstructed with other settings: reconstructing it again", block.name)
            return None
        return found.operands, report

    def write(self, block: Block, learned: SolvedOperands, report: BlockReport, before: SolvedOperands) -> None:
        """Keep what was learned of a block.

        Raises:
            OSError: it cannot be written.
        """
        description = {"depends_on": self._fingerprint(block, before), "report": asdict(report)}
        write_operands(self._path(block), learned, description=description)

    def _path(self, block: Block) -> Path:
        return self.folder / f"{block.first:03d}-{block.name}.safetensors"

    def _fingerprint(self, block: Block, before: SolvedOperands) -> str:
        """Hash what a block's result depends on, the results of the blocks before it included."""
        digest = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode())
        for key, quantizer in before.quantizers.items():
            learned = {**quantizer.qparams(), "codes": before.codes.get(key)}
            for name, value in learned.items() if key[0] not in block.sites else ():
                if value is not None:
                    digest.update(f"{key} {name}".encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()
