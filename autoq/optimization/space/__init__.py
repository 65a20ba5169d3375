"""Search spaces: rules in TOML, matched against the sites of a model, and the decisions that they leave open.

``load_space`` reads a file, ``resolve_space`` matches it against a model. What needs the sites of a model is imported
when it is asked for, not before: reading a space needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from autoq.optimization.space.loading import load_space, load_target, parse_space, shipped_spaces, shipped_targets
from autoq.optimization.space.rules import Rule, SearchSpace, Tie
from autoq.optimization.space.targets import Target

if TYPE_CHECKING:
    from autoq.optimization.space.decisions import Assignment, Decision, OperandPlan, ResolvedSpace
    from autoq.optimization.space.repair import BudgetRepair
    from autoq.optimization.space.resolution import resolve_space

_LAZY = {
    "Assignment": "decisions",
    "BudgetRepair": "repair",
    "Decision": "decisions",
    "OperandPlan": "decisions",
    "ResolvedSpace": "decisions",
    "resolve_space": "resolution",
}

__all__ = [
    "Assignment",
    "BudgetRepair",
    "Decision",
    "OperandPlan",
    "ResolvedSpace",
    "Rule",
    "SearchSpace",
    "Target",
    "Tie",
    "load_space",
    "load_target",
    "parse_space",
    "resolve_space",
    "shipped_spaces",
    "shipped_targets",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
