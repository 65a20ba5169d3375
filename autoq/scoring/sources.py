"""Sources of a recipe's quantizers: a bank, or reconstructed operands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from autoq.errors import RecipeError
from autoq.graph.insert import QuantizedModel
from autoq.recipe import SiteConfig
from autoq.scoring.solved_operands import SolvedOperands


class QuantizerSource(Protocol):
    """Fills the slots of one model."""

    def apply_(self, sites: Mapping[str, SiteConfig]) -> None:
        """Put a recipe's quantizers and integer operations into the model and take all others out.

        Raises:
            RecipeError: the model has no such site or operand, or the recipe's schemes do not fit together.
            CalibrationError: an option does not fit its operand.
        """


class SolvedSource:
    """The quantizers of one reconstructed recipe, its weights quantized once."""

    def __init__(self, model: QuantizedModel, operands: SolvedOperands) -> None:
        """Take the operands of a model, whose slots are emptied.

        Raises:
            RecipeError: the model has no such operand, or schemes do not fit together.
        """
        self._model, self._sites = model, operands.sites
        operands.apply_(model)
        self._modules = {key: slot.quantizer for key, slot in model.slots.items() if slot.quantizer is not None}
        self._operations = {
            site: slot.replacement for site, slot in model.operations.items() if slot.replacement is not None
        }
        model.remove_()

    def apply_(self, sites: Mapping[str, SiteConfig]) -> None:
        """Apply the recipe, or full precision; see ``QuantizerSource``.

        Raises:
            RecipeError: ``sites`` are others.
        """
        wanted = {site: operands for site, operands in sites.items() if operands}
        if wanted and wanted != self._sites:
            raise RecipeError("the recipe is not the one that was reconstructed: reconstruct it again")
        self._model.remove_()
        if wanted:
            self._model.insert_(self._modules)
            self._model.replace_(self._operations)
