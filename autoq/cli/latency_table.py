"""``autoq latency-table``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoq.cli.options import Json, Model, Pretrained, explained, print_json


def latency_table(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The table to write, as JSON.")],
    model: Model = "vit_digits",
    pretrained: Pretrained = True,
    batch: Annotated[int, typer.Option(metavar="N", min=1, max=4096, help="Images at a time.")] = 1,
    threads: Annotated[int, typer.Option(metavar="N", min=1, max=1024, help="That the runtime may use.")] = 1,
    rounds: Annotated[
        int,
        typer.Option(metavar="N", min=2, max=1_000_000, help="In each, the model and every kind of a site run once."),
    ] = 20,
    runtime: Annotated[str, typer.Option(metavar="NAME", help="onnxruntime or openvino.")] = "onnxruntime",
    as_json: Json = False,
) -> None:
    """Time every site of a model as ONNX, in floating point and in 8-bit integers, and write a latency table.

    Each site is timed beside the whole model, so that what slows the machine down slows both. Recipes of spaces such as
    onnxruntime_8, whose operands have one scale, run at these times; other schemes are multiplied in floating point.
    """
    from autoq.api.timing import latency_table as measure

    with explained(output):
        table = measure(
            model, batch=batch, threads=threads, rounds=rounds, runtime=runtime, pretrained=pretrained, progress=True
        )
        table.save(output)
    total, integers = table.add_up(quantized=False), table.add_up(quantized=True)
    if as_json:
        print_json(
            {"path": str(output), "milliseconds": {"float": total, "integers": integers}, "rows": len(table.rows)}
        )
        return
    typer.echo(f"{len(table.rows)} rows -> {output}")
    typer.echo(table.description)
    typer.echo(f"floating point  {total:8.3f} ms an image")
    typer.echo(f"all in integers {integers:8.3f} ms, {total / integers:.2f} × as fast, by adding up")
