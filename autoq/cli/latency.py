"""``autoq latency``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoq.cli.options import CalibData, Json, RecipeModel, print_json


def latency(
    recipes: Annotated[
        list[Path],
        typer.Argument(metavar="RUN|RECIPE...", help="Run directories (their best) or recipes of one model."),
    ],
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", metavar="N", min=1, max=4096, help="Images at a time; may be repeated. [default: 1]"),
    ] = None,
    threads: Annotated[int, typer.Option(metavar="N", min=1, max=1024, help="That the runtime may use.")] = 1,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=2, max=1_000_000, help="In each, every model runs once.")
    ] = 50,
    runtime: Annotated[str, typer.Option(metavar="NAME", help="onnxruntime or openvino.")] = "onnxruntime",
    against: Annotated[
        Path | None,
        typer.Option(metavar="RUN|RECIPE", help="What ratios are to. [default: the model in floating point]"),
    ] = None,
    model: RecipeModel = None,
    calib_data: CalibData = None,
    as_json: Json = False,
) -> None:
    """Time recipes as ONNX against the model in floating point, or another recipe.

    In each round every model runs once, so that what slows the machine down slows all of them; the median of the
    rounds' ratios is printed, and the quarters around it.
    """
    from autoq.api.timing import latency as measure

    found = measure(
        recipes,
        batch=batch or [1],
        threads=threads,
        rounds=rounds,
        runtime=runtime,
        reference=against,
        model=model,
        images=calib_data,
    )
    if as_json:
        print_json(found.to_json())
        return
    typer.echo(found.machine)
    width = max(len(name) for name in found.agreement_percent)
    for size, timings in found.timings.items():
        typer.echo(f"batch {size}")
        for name, timing in timings.items():
            same = found.agreement_percent[name]
            agrees = "" if same is None else f", agrees with autoq on {same:.1f} %"
            typer.echo(
                f"  {name:<{width}}  {timing.milliseconds:8.2f} ms  {timing.speedup:5.2f} × as fast as "
                f"{found.reference} ({timing.low:.2f} to {timing.high:.2f}){agrees}"
            )
