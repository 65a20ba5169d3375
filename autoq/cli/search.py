"""``autoq search``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from autoq.cli.options import (
    CENTRE_KEYS_HELP,
    DATA_HELP,
    MODEL_HELP,
    OUTPUT_HELP,
    SECOND_ORDER_HELP,
    TASK_HELP,
    Exclude,
    Fix,
    Interrupted,
    Json,
    Target,
    TaskOption,
    default_out,
    named,
    parse_seconds,
    this_command,
)
from autoq.cli.search_output import show_found
from autoq.errors import SpaceError
from autoq.optimization.executors import EXECUTORS
from autoq.optimization.samplers import SAMPLERS
from autoq.sensitivity.proxies import PROXIES


def search(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY.toml]", help="Settings from a file; options given here win.")
    ] = None,
    budget_bops: Annotated[
        str | None,
        typer.Option(
            "--budget-bops",
            metavar="B",
            help="12.5G or 1.1T, w4a4 (cost of uniform 4/4), 60% (of w8a8). [default: w4a4, without other budgets]",
        ),
    ] = None,
    budget_size: Annotated[
        str | None, typer.Option("--budget-size", metavar="B", help="Weights with their scales: 3.2MB, w4a4 or 60%.")
    ] = None,
    budget_activations: Annotated[
        str | None,
        typer.Option("--budget-activations", metavar="B", help="Largest set of live activations: 250kB, w4a4 or 60%."),
    ] = None,
    budget_latency: Annotated[
        str | None,
        typer.Option("--budget-latency", metavar="B", help="Sum of times in --latency-table: 4ms, w4a4 or 60%."),
    ] = None,
    latency_table: Annotated[
        str | None,
        typer.Option("--latency-table", metavar="FILE", help="Measured times of sites at their bits, JSON or CSV."),
    ] = None,
    model: Annotated[str | None, typer.Option(metavar="MODEL", help=f"{MODEL_HELP} [default: vit_digits]")] = None,
    pretrained: Annotated[
        bool | None, typer.Option("--pretrained/--no-pretrained", help="Load weights, or use random ones.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="DATA", help=f"Calibration images: {DATA_HELP}")] = None,
    eval_data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Labelled images, which calibration never sees, to measure accuracy on."),
    ] = None,
    eval_recipes: Annotated[
        int | None, typer.Option(metavar="N", help="Most recipes of the front to measure accuracy of. [default: 24]")
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="NAME", help=f"{TASK_HELP} [default: classification]")] = None,
    task_option: TaskOption = None,
    output: Annotated[str | None, typer.Option(metavar="NAME", help=OUTPUT_HELP)] = None,
    space: Annotated[
        str | None, typer.Option(metavar="SPACE", help="Shipped search space, or a TOML file. [default: vit_w2-8]")
    ] = None,
    target: Target = None,
    fix: Fix = None,
    exclude: Exclude = None,
    trials: Annotated[int | None, typer.Option(metavar="N", help="Recipes to evaluate. [default: 100]")] = None,
    time_limit: Annotated[
        str | None, typer.Option(metavar="TIME", help="Be done after 90s, 10m or 1.5h, accuracy included.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"How recipes are proposed: {named(SAMPLERS)}. [default: progressive]",
        ),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"What is minimised: {named(PROXIES)}. [default: kl]",
        ),
    ] = None,
    sensitivity: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The proxy by which options are measured alone before the search. [default: fisher]"
        ),
    ] = None,
    baselines: Annotated[
        str | None,
        typer.Option(
            metavar="WHICH",
            help="What to compare with: uniform (of the space), published (methods that calibrate fast too), or all "
            "(adalog and ptq4vit too, which may take longer than the search). [default: published]",
        ),
    ] = None,
    observer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Ranges by mse, min_max, ema, percentile, omse, best_percentile or, slower, by the error of each "
            "layer's output: fpcs. [default: mse]",
        ),
    ] = None,
    rotate: Annotated[
        bool | None,
        typer.Option("--rotate/--no-rotate", help="Rotate channels first, where weights can take it up and it helps."),
    ] = None,
    centre_keys: Annotated[bool | None, typer.Option("--centre-keys/--no-centre-keys", help=CENTRE_KEYS_HELP)] = None,
    reparameterize: Annotated[
        bool | None,
        typer.Option("--reparameterize/--no-reparameterize", help="Rescale LayerNorm outputs first, as RepQ-ViT does."),
    ] = None,
    second_order: Annotated[
        bool | None, typer.Option("--second-order/--no-second-order", help=SECOND_ORDER_HELP)
    ] = None,
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="Least time rather than the best recipe: --no-rotate --no-centre-keys --no-reparameterize "
            "--no-second-order --no-finish --baselines uniform --trials 60, but for what else is given.",
        ),
    ] = False,
    calib_images: Annotated[
        int | None, typer.Option(metavar="N", help="Images to calibrate on; as many others score. [default: 128]")
    ] = None,
    finish: Annotated[
        bool | None,
        typer.Option(
            "--finish/--no-finish",
            help="When the search is over, solve the weights of the best recipe and the knee again, in closed form on "
            "their own quantized inputs; not part of --time-limit.",
        ),
    ] = None,
    reconstruct: Annotated[
        bool | None,
        typer.Option(
            "--reconstruct/--no-reconstruct",
            help="After that, train their rounding and scales block by block; not part of --time-limit.",
        ),
    ] = None,
    reconstruct_iterations: Annotated[
        int | None,
        typer.Option(metavar="N", help="Training steps of each block in --reconstruct. [default: 1000]"),
    ] = None,
    reconstruct_images: Annotated[
        int | None, typer.Option(metavar="N", help="Images that --reconstruct learns from, at most. [default: 1024]")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="Evaluate recipes in N processes, one a core or GPU. [default: 1]"),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Where recipes are evaluated: {named(EXECUTORS)}. [default: local with one worker, else processes]",
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Of an existing Ray cluster, for --executor ray.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Write every trial to a database as well: postgresql://USER@HOST/DATABASE, mysql://..., sqlite:///FILE.",
        ),
    ] = None,
    study_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the study there. [default: that of the run directory]")
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="[default: 0]")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Run directory. [default: autoq-runs/MODEL-BUDGET]")
    ] = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="Write progress as JSON objects, one a line, on standard error.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find the recipe that loses least within budgets, and the front around it.

    Without options but a budget, searches the bundled model on bundled images. The same command resumes an
    interrupted run; with ``--finish`` or ``--reconstruct`` added, it only does that to what a finished one has found.
    """
    from autoq.tasks import read_settings

    given: dict[str, Any] = {
        "budget_bops": budget_bops,
        "budget_size": budget_size,
        "budget_activations": budget_activations,
        "budget_latency": budget_latency,
        "latency_table": latency_table,
        "model": model,
        "pretrained": pretrained,
        "data": data,
        "eval_data": eval_data,
        "eval_recipes": eval_recipes,
        "task": task,
        "task_options": read_settings(task_option) if task_option else None,
        "output": output,
        "space": space,
        "target": target,
        "fix": fix,
        "exclude": exclude,
        "trials": trials,
        "time_limit_seconds": None if time_limit is None else parse_seconds(time_limit),
        "sampler": sampler,
        "proxy": proxy,
        "sensitivity": sensitivity,
        "baselines": baselines,
        "observer": observer,
        "rotate": rotate,
        "centre_keys": centre_keys,
        "reparameterize": reparameterize,
        "second_order": second_order,
        "calib_images": calib_images,
        "finish": finish,
        "reconstruct": reconstruct,
        "reconstruct_iterations": reconstruct_iterations,
        "reconstruct_images": reconstruct_images,
        "workers": workers,
        "executor": executor,
        "address": address,
        "storage": storage,
        "study_name": study_name,
        "device": device,
        "seed": seed,
    }
    _run(study, {key: value for key, value in given.items() if value is not None}, out, fast, log_json, as_json)


def _run(
    study: Path | None, given: dict[str, Any], out: Path | None, fast: bool, log_json: bool, as_json: bool
) -> None:
    from autoq.display import JsonLog, RunDisplay
    from autoq.runs.search.settings import FAST, load_study_file, make_settings

    settings = make_settings(
        {**(FAST if fast else {}), **(load_study_file(study) if study else {}), **given}, "option", are_options=True
    )
    if not settings.reconstruct and (unused := given.keys() & {"reconstruct_iterations", "reconstruct_images"}):
        raise SpaceError(f"--{min(unused).replace('_', '-')} is of no use without --reconstruct: add it")
    out = out or default_out(settings.model, settings.budget_name)
    try:
        with JsonLog() if log_json else RunDisplay() as display:
            from autoq.api.searching import search_with

            found = search_with(settings, out, display)
    except KeyboardInterrupt:
        raise Interrupted(_after_interrupt(out)) from None
    show_found(found, out, as_json)


def _after_interrupt(out: Path) -> str:
    """Draw what has been found, and return the message that says how to resume."""
    if (out / "study.log").exists():
        from autoq.api.result import SearchResult

        so_far = SearchResult(out)
        so_far.write_report()
        shown = "the trials so far" if so_far.summary.interrupted else "the search, which is finished"
        sys.stderr.write(f"autoq: {os.fspath(out / 'report.html')} shows {shown}\n")
    return f"interrupted; run the same command to resume: {this_command()}"
