"""What methods make of the bundled model: weights at 3 bits, activations at 5, attention maps at 4."""

from __future__ import annotations

from collections.abc import Iterator

from autoq.graph.trace import TracedModel
from autoq.methods import BaseMethod, BitWidths
from autoq.recipe import OperandConfig
from tests.runs.small_run import small_session

WIDTHS = BitWidths(3, 5, 4)
KINDS = {
    "image": ("patch_embed.proj", "input"),
    "weight": ("blocks.0.attn.qkv", "weight"),
    "norm input": ("blocks.0.norm1", "input"),
    "layer input": ("blocks.0.attn.qkv", "input"),
    "query": ("blocks.0.attn.qk", "lhs"),
    "key": ("blocks.0.attn.qk", "rhs"),
    "value": ("blocks.0.attn.av", "rhs"),
    "softmax input": ("blocks.0.attn.softmax", "input"),
    "attention map": ("blocks.0.attn.av", "lhs"),
    "gelu output": ("blocks.0.mlp.fc2", "input"),
}
"""One operand of each kind that methods treat differently."""


def traced_model() -> TracedModel:
    return small_session().traced


def uniform(bits: int, **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "uniform", "bits": bits} | fields)


def configs(method: BaseMethod) -> Iterator[tuple[str, str, str, OperandConfig]]:
    """Site, operand, producer and configuration of everything that a method quantizes."""
    traced = traced_model()
    sites = method.sites(traced, WIDTHS)
    for site, operand in traced.operands():
        if operand.name in sites.get(site.name, {}):
            yield site.name, operand.name, operand.producer, sites[site.name][operand.name]


def by_kind(method: BaseMethod) -> dict[str, OperandConfig]:
    """The configuration of one operand of each kind, by what it is; those in floating point are left out."""
    sites = method.sites(traced_model(), WIDTHS)
    return {kind: sites[site][operand] for kind, (site, operand) in KINDS.items() if operand in sites.get(site, {})}
