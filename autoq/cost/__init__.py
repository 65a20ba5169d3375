"""What a recipe costs: closed forms over sites and operand configurations, and budgets.

What needs the graph of a model is imported when it is asked for: reading a budget needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from autoq.cost.budget import Budget
from autoq.cost.kinds import BOPS, KINDS, CostKind
from autoq.cost.limits import Limits

if TYPE_CHECKING:
    from autoq.cost.bops import ModelCost, SiteCost, model_cost, site_cost, uniform_bops
    from autoq.cost.latency import LatencyTable
    from autoq.cost.model import CostModel
    from autoq.cost.size import weight_bytes

_LAZY = {
    "CostModel": "model",
    "LatencyTable": "latency",
    "ModelCost": "bops",
    "SiteCost": "bops",
    "model_cost": "bops",
    "site_cost": "bops",
    "uniform_bops": "bops",
    "weight_bytes": "size",
}

__all__ = [
    "BOPS",
    "KINDS",
    "Budget",
    "CostKind",
    "CostModel",
    "LatencyTable",
    "Limits",
    "ModelCost",
    "SiteCost",
    "model_cost",
    "site_cost",
    "uniform_bops",
    "weight_bytes",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
