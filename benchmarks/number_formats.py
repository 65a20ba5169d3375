"""Integer against floating-point formats: the same model, calibration and costs, exact allocation in each family.

    python -m benchmarks.number_formats --model local-dir:vit_c10 --data cifar10/calib --out formats_vit_c10.json \
        --picture formats_vit_c10.png

Options are solved once, with rotated channels, centred keys and second-order rounding for all, and measured alone by
``fisher``. For each family of schemes and each budget the recipe of least summed loss is evaluated as a whole, on
images that did not calibrate.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

import autoq
from autoq.calibration import Bank
from autoq.cost import CostModel, Limits, uniform_bops
from autoq.optimization.allocation.problem import AllocationProblem
from autoq.optimization.space import ResolvedSpace, load_space, resolve_space
from autoq.optimization.space.rules import SearchSpace
from autoq.recipe import SiteConfig
from autoq.runs.images import CalibrationImages
from autoq.runs.opening import open_bank
from autoq.runs.search.settings import SearchSettings
from autoq.runs.sensitivity import measure_into, options_of_space
from autoq.runs.session import Session
from autoq.scoring import Evaluator
from autoq.sensitivity.table import Option, SensitivityTable

FAMILIES = {
    "integers": ("uniform",),
    "MX": ("mxint8", "mxfp4"),
    "FP8 and NVFP4": ("fp8_e4m3", "nvfp4"),
    "all": ("uniform", "fp8_e4m3", "mxint8", "mxfp4", "nvfp4"),
}
MARKS = {"integers": "o", "MX": "s", "FP8 and NVFP4": "^", "all": "D"}
BITS = (4.0, 4.25, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0)
"""Budgets, as the cost of so many bits everywhere."""


def family(space: SearchSpace, schemes: tuple[str, ...]) -> SearchSpace:
    """Return a space with only some of its schemes; the image keeps uniform and FP8."""
    document = space.model_dump(exclude_none=True)
    if len(schemes) == 1:
        document["ties"] = []
    for rule in document["rules"]:
        if "scheme" in rule:
            offered = [scheme for scheme in rule["scheme"] if scheme in schemes]
            rule["scheme"] = offered or list(rule["scheme"])
    return SearchSpace.model_validate(document)


def main() -> None:
    """Measure and print a table; draw a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=128, help="that calibrate, and as many others that evaluate")
    parser.add_argument("--bank", type=Path, help="folder that keeps the bank and the sensitivities")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--beside", type=Path, help="what --out has of another model, to draw in the same picture")
    arguments = parser.parse_args()
    settings = SearchSettings(model=arguments.model, data=arguments.data, calib_images=arguments.images)
    with tempfile.TemporaryDirectory() as temporary:
        measured = measure(settings, arguments.bank or Path(temporary))
    arguments.out.write_text(json.dumps(measured, indent=1))
    print_table(measured)
    if arguments.picture:
        beside = [json.loads(arguments.beside.read_text(encoding="utf-8"))] if arguments.beside else []
        draw([*beside, measured], arguments.picture)


def measure(settings: SearchSettings, folder: Path) -> dict[str, Any]:
    """Evaluate the allocation of every family at every budget."""
    started = time.process_time()
    session = Session.open(settings.model)
    both = session.calibration_images(settings.data, 2 * settings.calib_images, settings.seed)
    images, others = both.held_out(settings.calib_images)
    session, bank = open_bank(session, images, settings, folder / "bank")
    sites, whole = session.traced.sites, load_space("formats_4-8")
    options = options_of_space(resolve_space(whole, sites))
    bank.solve_into(folder / "bank", options, lambda *_: None)
    table = measured_alone(folder, options, session, bank, images)
    evaluator = Evaluator(session.model, bank, others.tensor)
    costs, points = CostModel(sites), []
    budgets = [round(uniform_bops(sites, 1, 1) * bits**2) for bits in BITS]
    for name, schemes in FAMILIES.items():
        space = resolve_space(family(whole, schemes), sites)
        for budget in budgets:
            if (recipe := allocated(costs, space, table, budget)) is not None:
                cost, score = costs.cost(recipe), evaluator.evaluate(recipe)
                point = {"bops": cost.bops, "weight_bytes": cost.weight_bytes, "kl_nats": score.kl_nats}
                schemes = Counter(config.scheme for site in recipe.values() for config in site.values())
                points.append({"family": name, "budget": budget, **point, "schemes": dict(schemes)})
    return {
        "model": settings.model.rpartition("/")[2],
        "images": settings.calib_images,
        "one_bit": uniform_bops(sites, 1, 1),
        "points": points,
        "processor_seconds": time.process_time() - started,
        "machine": f"{platform.machine()}, torch {torch.__version__}, autoq {autoq.__version__}",
    }


def measured_alone(
    folder: Path, options: Sequence[Option], session: Session, bank: Bank, images: CalibrationImages
) -> SensitivityTable:
    """Return the losses of options alone by ``fisher``, which ``folder`` keeps."""
    return measure_into(
        folder / "fisher.csv",
        options,
        evaluator=lambda: Evaluator(session.model, bank, images.tensor),
        bank=bank,
        images=images.tensor,
        proxy="fisher",
        task=session.task,
    )


def allocated(
    costs: CostModel, space: ResolvedSpace, table: SensitivityTable, budget: int, kind: str = "bops"
) -> dict[str, SiteConfig] | None:
    """Return the recipe of least summed loss within a budget; None where the family has nothing so cheap."""
    problem = AllocationProblem(costs, space, Limits({kind: budget}))
    if problem.minimum_cost > budget:
        return None
    return space.sites_for(problem.allocate(problem.table(table.loss), budget).assignment)


def print_table(measured: dict[str, Any]) -> None:
    """Print KL by budget and family."""
    budgets = sorted({point["budget"] for point in measured["points"]})
    print(
        f"KL in nats on {measured['images']} images of {measured['model']} that did not calibrate; "
        f"{measured['machine']}\n"
    )
    print("| bits everywhere |", " | ".join(FAMILIES), "|")
    print("| --- |", " | ".join("---" for _ in FAMILIES), "|")
    for bits, budget in zip(BITS, budgets, strict=True):
        found = {point["family"]: point["kl_nats"] for point in measured["points"] if point["budget"] == budget}
        print(f"| {bits:g} |", " | ".join(f"{found[name]:.2g}" if name in found else "—" for name in FAMILIES), "|")


def draw(all_measured: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw KL over cost, a panel for each model and a line for each family."""
    size = (5.5 * len(all_measured), 4.2)
    figure, row = plt.subplots(1, len(all_measured), figsize=size, layout="constrained", squeeze=False)
    for axes, measured in zip(row[0], all_measured, strict=True):
        for name, mark in MARKS.items():
            points = sorted((p["bops"], p["kl_nats"]) for p in measured["points"] if p["family"] == name)
            axes.plot([x / 1e9 for x, _ in points], [y for _, y in points], marker=mark, markersize=5, label=name)
        axes.set(xlabel="GBOPs", ylabel="KL (nats)", yscale="log", title=measured["model"])
        axes.spines[["top", "right"]].set_visible(False)
    row[0][-1].legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
