"""One way to write each quantizer: operand configurations that mean the same become equal, and so do recipe hashes."""

from __future__ import annotations

from autoq.graph.sites import Operand
from autoq.quantizers import quantizer_class
from autoq.recipe import OperandConfig


def canonical(config: OperandConfig, operand: Operand) -> OperandConfig:
    """Return ``config`` as ``operand`` can have it; see ``BaseQuantizer.canonical_config``.

    Raises:
        RecipeError: there is no such scheme.

    >>> from autoq.quantizers import OperandLayout
    >>> weight = Operand("weight", (6, 8), "parameter", OperandLayout(2, -2, group_axis=-1, instances_per_image=0))
    >>> canonical(OperandConfig(scheme="uniform", bits=4, granularity="head", groups=3), weight).to_json()
    {'scheme': 'uniform', 'bits': 4}
    """
    return quantizer_class(config.scheme).canonical_config(config, operand.layout, operand.shape)
