"""``autoq sites``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import typer

from autoq.cli.options import Device, Json, Model, Pretrained, print_json

if TYPE_CHECKING:
    from autoq.graph.trace import TracedModel


def sites(
    model: Model = "vit_digits", pretrained: Pretrained = True, device: Device = "cpu", as_json: Json = False
) -> None:
    """List what can be quantized in a model: sites, their operands, what produces them, and their MACs."""
    from autoq.runs.session import Session

    traced = Session.open(model, pretrained, device).traced
    if as_json:
        print_json(
            [
                {
                    "name": site.name,
                    "op": site.op,
                    "macs": site.macs,
                    "operands": [
                        {"name": operand.name, "shape": list(operand.shape), "producer": operand.producer}
                        for operand in site.operands
                    ],
                }
                for site in traced.sites
            ]
        )
        return
    typer.echo(format_sites(traced))


def format_sites(traced: TracedModel) -> str:
    """Format the sites as a table of fixed-width columns, then totals and what is not counted."""
    rows = [("site", "op", "MMACs", "share", "operands (shape per image, producer)")]
    for site in traced.sites:
        operands = ", ".join(
            f"{o.name} {'×'.join(map(str, o.shape))}{'' if o.is_weight else f' {o.producer}'}" for o in site.operands
        )
        macs = (f"{site.macs / 1e6:.3f}", f"{100 * site.macs / traced.macs:.2f}%") if site.macs else ("", "")
        rows.append((site.name, site.op, *macs, operands))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}  {row[4]}".rstrip()
        for row in rows
    ]
    counted = [site for site in traced.sites if site.macs]
    attention = sum(site.macs for site in counted if not any(operand.is_weight for operand in site.operands))
    weights = sum(math.prod(o.shape) for site in counted for o in site.operands if o.is_weight)
    lines.append("")
    lines.append(
        f"{len(counted)} multiplying sites, {traced.macs / 1e9:.4g} GMACs per image, "
        f"{100 * attention / traced.macs:.1f}% of them between activations; {weights / 1e6:.4g} M weights"
    )
    lines += [f"not counted: {op.name} ({op.op}): {op.reason}" for op in traced.uncounted]
    return "\n".join(lines)
