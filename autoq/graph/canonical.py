"""One way to write each quantizer: operand configurations that mean the same become equal, and so do recipe hashes."""

from __future__ import annotations

from typing import Any

from autoq.graph.sites import Operand
from autoq.recipe import OperandConfig

_RELEVANT: dict[str, tuple[str, ...]] = {
    "uniform": ("granularity", "symmetric", "groups"),
    "instance_groups": ("groups",),
    "adalog": ("granularity", "log_base_numerator", "overflow"),
    "log2": ("granularity", "overflow"),
    "log_sqrt2": ("granularity", "overflow"),
    "log_int_softmax": ("overflow",),
    "twin_uniform": ("granularity",),
    "power_of_two_factor": (),
}
"""The fields that a scheme reads besides ``bits``; a scheme that is not listed is taken to read all."""


def canonical(config: OperandConfig, operand: Operand) -> OperandConfig:
    """``config`` as ``operand`` can have it, with fields that its scheme does not read at their defaults.

    - Instance groups become ``uniform`` per tensor where there is one group or nothing to group: both are one range for
      everything.
    - ``head`` and ``group`` granularity become ``tensor`` (weights: ``channel``) where the operand has no such axis.
    - More groups than entries to group are as many as there are entries.
    """
    if config.scheme == "instance_groups":
        groups = _groups(config, operand, operand.layout.instance_group_axis)
        if groups == 1:
            return OperandConfig(scheme="uniform", bits=config.bits)
        return OperandConfig(scheme="instance_groups", bits=config.bits, groups=groups)
    values: dict[str, Any] = {"scheme": config.scheme, "bits": config.bits}
    values |= {name: getattr(config, name) for name in _RELEVANT.get(config.scheme, OperandConfig.model_fields)}
    granularity = values.get("granularity", "tensor")
    if granularity == "head" and operand.layout.head_axis is None:
        values["granularity"] = "tensor"
    if granularity == "group":
        values["groups"] = _groups(config, operand, operand.layout.group_axis)
        if values["groups"] == 1:
            values["granularity"] = "channel" if operand.is_weight else "tensor"
    elif config.scheme in _RELEVANT:
        values["groups"] = 1
    return OperandConfig(**values)


def _groups(config: OperandConfig, operand: Operand, axis: int | None) -> int:
    return 1 if axis is None else min(config.groups, operand.shape[axis])
