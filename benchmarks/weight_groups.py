"""Static groups along the input channels of weights against one scale an output channel, at equal bytes.

    python -m benchmarks.weight_groups --model local-dir:vit_c10 --data cifar10/calib --bank runs/groups \
        --out weight_groups_vit_c10.json

Weights alone are quantized, with rotated channels and second-order rounding for all; options are measured alone by
``fisher``. Printed are uniform widths, with what groups add to the BOPs of as many bits everywhere, and for every
family of granularities and every budget of bytes the recipe of least summed loss. All recipes are evaluated as wholes,
on images that did not calibrate.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import autoq
from autoq.cost import CostModel, model_cost
from autoq.optimization.space import ResolvedSpace, resolve_space
from autoq.optimization.space.rules import SearchSpace
from autoq.recipe import OperandConfig, SiteConfig
from autoq.runs.opening import open_bank
from autoq.runs.search.settings import SearchSettings
from autoq.runs.sensitivity import options_of_space
from autoq.runs.session import Session
from autoq.scoring import Evaluator
from autoq.units import format_bops
from benchmarks.number_formats import allocated, measured_alone

BITS = (2, 3, 4, 5)
BUDGETS = (2.25, 2.5, 3.0, 3.5, 4.0, 4.5)
"""Bytes, as those of so many bits everywhere with a scale a channel."""


def weight_space(bits: Sequence[int], group_size: int | None) -> SearchSpace:
    """Return the space of weights with one scale an output channel, or one a static group of channels."""
    shared = {"granularity": "channel"} if group_size is None else {"granularity": "group", "group_size": group_size}
    rule = {"operand": "weight", "scheme": "uniform", "bits": list(bits), **shared}
    return SearchSpace.model_validate({"schema_version": 1, "description": "weights", "rules": [rule]})


def name_of(group_size: int | None) -> str:
    """Name a granularity in the tables."""
    return "channel" if group_size is None else f"groups of {group_size}"


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=128, help="that calibrate, and as many others that evaluate")
    parser.add_argument("--group-sizes", default="128,64,32")
    parser.add_argument("--bank", type=Path, help="folder that keeps the bank and the sensitivities")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    settings = SearchSettings(model=arguments.model, data=arguments.data, calib_images=arguments.images)
    sizes = [None, *(int(size) for size in arguments.group_sizes.split(","))]
    with tempfile.TemporaryDirectory() as temporary:
        measured = measure(settings, sizes, arguments.bank or Path(temporary))
    arguments.out.write_text(json.dumps(measured, indent=1))
    print_tables(measured)


def measure(settings: SearchSettings, sizes: Sequence[int | None], folder: Path) -> dict[str, Any]:
    """Evaluate uniform widths of every granularity, and allocations at equal bytes."""
    started = time.process_time()
    session = Session.open(settings.model)
    both = session.calibration_images(settings.data, 2 * settings.calib_images, settings.seed)
    images, others = both.held_out(settings.calib_images)
    session, bank = open_bank(session, images, settings, folder / "bank")
    sites = session.traced.sites
    spaces = {name_of(size): resolve_space(weight_space(BITS, size), sites) for size in sizes}
    options = sorted({option for space in spaces.values() for option in options_of_space(space)}, key=str)
    bank.solve_into(folder / "bank", options, lambda *_: None)
    table = measured_alone(folder, options, session, bank, images)
    evaluator, costs = Evaluator(session.model, bank, others.tensor), CostModel(sites)
    uniform, within = [], []
    for size in sizes:
        for bits in BITS:
            recipe = resolve_space(weight_space([bits], size), sites).sites_for({})
            point = {"granularity": name_of(size), "bits": bits, "kl_nats": evaluator.evaluate(recipe).kl_nats}
            uniform.append({**point, **_costs(costs, recipe, bits)})
    for share in BUDGETS:
        budget = _bytes_of(costs, spaces["channel"], share)
        for name, space in spaces.items():
            if (best := allocated(costs, space, table, budget, "size")) is not None:
                kl = evaluator.evaluate(best).kl_nats
                within.append({"granularity": name, "budget": budget, "bits": share, "kl_nats": kl})
    return {
        "model": settings.model.rpartition("/")[2],
        "images": settings.calib_images,
        "uniform": uniform,
        "allocated": within,
        "processor_seconds": time.process_time() - started,
        "machine": f"{platform.machine()}, torch {torch.__version__}, autoq {autoq.__version__}",
    }


def _costs(costs: CostModel, recipe: dict[str, SiteConfig], bits: int) -> dict[str, int]:
    """Return the bytes of the weights, and the BOPs when everything else has as many bits in one range a tensor."""
    other = OperandConfig(scheme="uniform", bits=bits)
    whole = {
        site.name: {o.name: recipe.get(site.name, {}).get(o.name, other) for o in site.operands}
        for site in costs.sites
        if site.macs
    }
    return {"weight_bytes": costs.cost(recipe).weight_bytes, "bops": model_cost(costs.sites, whole).bops}


def _bytes_of(costs: CostModel, space: ResolvedSpace, bits: float) -> int:
    """Return the bytes of weights of ``bits`` bits everywhere; between whole numbers on a straight line."""
    names = [decision.name for decision in space.decisions]
    low = int(bits)
    below, above = (
        costs.cost(space.sites_for(dict.fromkeys(names, whole))).weight_bytes for whole in (low, min(low + 1, BITS[-1]))
    )
    return round(below + (bits - low) * (above - below))


def print_tables(measured: dict[str, Any]) -> None:
    """Print uniform widths, and KL by budget and granularity."""
    print(f"{measured['model']}: KL in nats on {measured['images']} images that did not calibrate")
    print(f"{measured['machine']}\n")
    print(
        "| bits | granularity | KL | kB of weights | BOPs, as many bits everywhere |\n| --- | --- | --- | --- | --- |"
    )
    for point in measured["uniform"]:
        figures = f"{point['kl_nats']:.2g} | {point['weight_bytes'] / 1e3:.0f} | {format_bops(point['bops'])}"
        print(f"| {point['bits']} | {point['granularity']} | {figures} |")
    names = list(dict.fromkeys(point["granularity"] for point in measured["uniform"]))
    print("\n| bytes of so many bits |", " | ".join(names), "|\n| --- |", " | ".join("---" for _ in names), "|")
    for share in BUDGETS:
        found = {p["granularity"]: p["kl_nats"] for p in measured["allocated"] if p["bits"] == share}
        print(f"| {share:g} |", " | ".join(f"{found[name]:.2g}" if name in found else "—" for name in names), "|")


if __name__ == "__main__":
    main()
