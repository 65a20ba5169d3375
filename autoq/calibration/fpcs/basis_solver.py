"""Quantizers of one site's operands in any basis: searched on transformed operands, whose product is the same."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from autoq.calibration.convolutions import Convolution, TransposedConvolution
from autoq.calibration.fpcs.site_solver import SiteSolver
from autoq.calibration.settings import CalibrationSettings
from autoq.graph.bases import basis_block, check_codes
from autoq.graph.sites import Site
from autoq.quantizers import BaseQuantizer, create_quantizer, quantizer_class
from autoq.quantizers._block_transform import block_rotation, rotate_blocks
from autoq.recipe import OperandConfig, SiteConfig


class BasisSolver:
    """Solves one site for many configurations, by a ``SiteSolver`` for each basis.

    As X Wᵀ = (X B)(W B)ᵀ, the squared error of the output is that of operands which are quantized after both were
    transformed.
    """

    def __init__(
        self,
        site: Site,
        operands: Mapping[str, Tensor],
        settings: CalibrationSettings,
        convolution: Convolution | TransposedConvolution | None = None,
        weight_parts: int = 1,
        output_weights: Tensor | None = None,
    ) -> None:
        """Search nothing yet; for arguments see ``SiteSolver``."""
        self._site, self._operands = site, operands
        self._settings, self._convolution, self._weight_parts = settings, convolution, weight_parts
        self._output_weights = output_weights
        self._solvers: dict[int, SiteSolver] = {}

    def solve(self, configs: SiteConfig) -> dict[str, BaseQuantizer]:
        """Solve the operands in ``configs``; the others stay in full precision.

        Raises:
            RecipeError: operands are to be quantized in different bases.
            CalibrationError: an option does not fit its operand.
        """
        known = {operand.name: operand for operand in self._site.operands if operand.name in configs}
        blocks = {basis_block(operand, configs[name]) for name, operand in known.items()}
        if len(blocks) > 1:
            check_codes({self._site.name: self._site}, {self._site.name: configs})
        block = blocks.pop() if blocks else 1
        solved = self._solver(block).solve({name: _plain(config) for name, config in configs.items()})
        return {
            name: create_quantizer(config, known[name].layout, solved[name].qparams())
            if config != solved[name].config
            else solved[name]
            for name, config in configs.items()
        }

    def _solver(self, block: int) -> SiteSolver:
        if block not in self._solvers:
            operands = {name: self._transformed(name, tensor, block) for name, tensor in self._operands.items()}
            self._solvers[block] = SiteSolver(
                self._site,
                operands,
                self._settings,
                self._convolution,
                self._weight_parts,
                self._output_weights,
            )
        return self._solvers[block]

    def _transformed(self, name: str, operand: Tensor, block: int) -> Tensor:
        axis = self._site.operand(name).layout.summed_axis
        if block == 1 or axis is None:
            return operand
        return rotate_blocks(operand.float(), block_rotation(block).to(operand.device), block, axis)


def _plain(config: OperandConfig) -> OperandConfig:
    return quantizer_class(config.scheme).in_basis(config, 1) or config
