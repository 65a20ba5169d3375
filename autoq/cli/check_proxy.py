"""``autoq check-proxy``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoq.cli.options import (
    CalibImages,
    CentreKeys,
    Data,
    Device,
    Exclude,
    Fix,
    Interrupted,
    Json,
    Model,
    Observer,
    Output,
    PictureFormat,
    Pretrained,
    Reparameterize,
    Rotate,
    SecondOrder,
    Seed,
    Space,
    Target,
    Task,
    TaskOption,
    default_out,
    print_json,
    short_name,
    this_command,
)

if TYPE_CHECKING:
    from autoq.runs.proxy_check.ranks import ProxyCheck
    from autoq.sensitivity.rank_agreement import Agreement


def check_proxy(
    model: Model = "vit_digits",
    pretrained: Pretrained = True,
    data: Data = "digits",
    eval_data: Annotated[
        str, typer.Option("--eval-data", metavar="DATA", help="Labelled images that calibration never sees.")
    ] = "digits/val",
    space: Space = "vit_w2-8",
    target: Target = None,
    fix: Fix = None,
    exclude: Exclude = None,
    recipes: Annotated[
        int, typer.Option(metavar="N", min=3, help="How many to compare, half of them along the front.")
    ] = 64,
    calib_images: CalibImages = 128,
    observer: Observer = "mse",
    rotate: Rotate = True,
    centre_keys: CentreKeys = True,
    reparameterize: Reparameterize = True,
    second_order: SecondOrder = True,
    device: Device = "auto",
    seed: Seed = 0,
    task: Task = "classification",
    task_option: TaskOption = None,
    output: Output = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="For the recipes, the ranks and a picture. [default: autoq-runs/MODEL-check-proxy]"
        ),
    ] = None,
    picture_format: PictureFormat = "png",
    as_json: Json = False,
) -> None:
    """Test whether a proxy ranks recipes as accuracy does: Kendall's tau with top-1 or AP, by proxy and images.

    The same command resumes an interrupted check.
    """
    from autoq.display import RunDisplay
    from autoq.report.figures import picture_path
    from autoq.runs.proxy_check.run import RECORD, TABLE, make_check_settings, run_proxy_check
    from autoq.tasks import read_settings

    settings = make_check_settings(
        model=model,
        pretrained=pretrained,
        data=data,
        eval_data=eval_data,
        space=space,
        fix=fix or (),
        target=target,
        exclude=exclude or (),
        recipes=recipes,
        calib_images=calib_images,
        observer=observer,
        rotate=rotate,
        centre_keys=centre_keys,
        reparameterize=reparameterize,
        second_order=second_order,
        device=device,
        seed=seed,
        task=task,
        task_options=read_settings(task_option or ()),
        output=output,
    )
    folder = out or default_out(model, "check-proxy")
    picture = picture_path(folder, "proxy_check", picture_format)
    try:
        with RunDisplay() as display:
            check = run_proxy_check(settings, folder, display)
        _draw(check, model, calib_images, picture)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; run the same command to resume: {this_command()}") from None
    if as_json:
        print_json({"out": check.out, **check.to_json()})
        return
    files = (f"recipes: {folder / TABLE}", f"ranks:   {folder / RECORD}", f"picture: {picture}")
    for line in (*_summary(check), *files):
        typer.echo(line)


def _draw(check: ProxyCheck, model: str, images: int, path: Path) -> None:
    from autoq.report.proxy_plot import draw_proxy_check

    draw_proxy_check(check, path, f"{short_name(model)}: does the proxy rank recipes as accuracy does?", images)


def _summary(check: ProxyCheck) -> list[str]:
    """Return what was compared, and a row for each proxy and number of images."""
    from autoq.runs.proxy_check.ranks import ALIKE_IN_COST, NEAR_POINTS
    from autoq.units import LABELS_BY

    values, metric = [row.percent for row in check.rows], check.metric
    origins = ", ".join(f"{count} {origin}" for origin, count in Counter(row.origin for row in check.rows).items())
    subsets = {subset.name: subset for subset in check.subsets}
    shown = {
        "all": "all",
        "near": f"within {NEAR_POINTS:g} points",
        "alike": f"within {100 * (ALIKE_IN_COST - 1):.0f} % cost",
        "clear": "told apart",
    }
    matched = "" if check.labels_by is None else f", labels matched {LABELS_BY[check.labels_by]}"
    lines = [
        f"{len(check.rows)} recipes ({origins}): {metric.title} {min(values):.1f} to {max(values):.1f} %, "
        f"full precision {check.full_precision_percent:.1f} %, on {check.labelled_images} images{matched}",
        f"{subsets['near'].recipes} are within {NEAR_POINTS:g} points of full precision; of {subsets['all'].pairs} "
        f"pairs {subsets['alike'].pairs} cost within {100 * (ALIKE_IN_COST - 1):.0f} % of each other, "
        f"{subsets['clear'].pairs} are told apart by {metric.title}, {subsets['all'].tied} are tied in it",
        "",
        f"Kendall's tau with {metric.title} (90 % interval over recipes):",
        _line("proxy", "images", shown.values()),
    ]
    for proxy, images in dict.fromkeys((each.proxy, each.images) for each in check.ranks):
        cells = [_cell(check.rank_of(proxy, images, name)) for name in shown]
        lines.append(_line(proxy, "" if images is None else str(images), cells))
    if subsets["all"].ceiling.redrawn is None:  # answers are not right or wrong
        return lines
    for title, attribute in ((f"{metric.title} redrawn", "redrawn"), (f"half of {metric.title}", "split_half")):
        lines.append(_line(title, "", [_tau(getattr(subsets[name].ceiling, attribute)) for name in shown]))
    return [
        *lines,
        f"{metric.title} redrawn: on as many labelled images drawn again, about what a perfect proxy reaches; half of "
        f"{metric.title}: on one half of them against the other",
    ]


def _line(proxy: str, images: str, cells: Iterable[str]) -> str:
    return "  ".join([f"{proxy:<13}", f"{images:>6}", *(f"{cell:<16}" for cell in cells)]).rstrip()


def _cell(agreement: Agreement) -> str:
    if agreement.low is None or agreement.high is None:
        return _tau(agreement.tau)
    return f"{_tau(agreement.tau)} ({_tau(agreement.low)}–{_tau(agreement.high)})"


def _tau(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
