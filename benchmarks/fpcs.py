"""The layer-output search: against brute force, in passes over the images, and by the number of sampled tokens.

    python -m benchmarks.fpcs [--model vit_digits] [--data digits] [--images 32] [--bits 4]

Brute force evaluates every combination that the progressive search could reach, by the same loss without screening. It
is run on one site of each kind (and on ``--rows`` output channels of a weight). Times are ratios to one full-precision
pass over the same images, measured before and after, or of runs made side by side; the least of several is taken.
"""

from __future__ import annotations

import argparse
import platform
import re
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from autoq.calibration import CalibrationSettings
from autoq.calibration.convolutions import convolution_of
from autoq.calibration.fpcs.layer_error import QuadraticError, affine_loss
from autoq.calibration.fpcs.output_search import solve_jobs
from autoq.calibration.fpcs.scaled_loss import log_unit, scaled_loss
from autoq.calibration.fpcs.search import Loss, progressive_search
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.fpcs.site_solver import SiteSolver
from autoq.data import load_images, open_source, subset
from autoq.graph.insert import QuantizedModel
from autoq.graph.sites import Operand, Site
from autoq.graph.trace import trace
from autoq.methods import BitWidths, create_method
from autoq.models import load_model
from autoq.quantizers import BaseQuantizer, quantizer_class
from autoq.quantizers.adalog import GREATEST_NUMERATOR, LEAST_NUMERATOR
from autoq.recipe import OperandConfig, SiteConfig

_BATCH = 32
_ALL = 1 << 40
_T = TypeVar("_T")
_SETTINGS = CalibrationSettings()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--rows", type=int, default=16, help="output channels of a weight that brute force is run on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", default="brute,passes,tokens", help="which to run, gelu too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{platform.machine()}, {platform.processor() or platform.system()}, {arguments.threads} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
    loaded = load_model(arguments.model)
    source = open_source(arguments.data, "calibration")
    images = load_images(source, subset(source, arguments.images, 0), loaded.transform)
    model = QuantizedModel(trace(loaded.module, images[:2]))
    method = create_method("adalog")
    jobs = method.sites(model.traced, BitWidths(arguments.bits, arguments.bits, arguments.bits))
    fpcs = replace(method.settings(0).fpcs, images=len(images))
    print(f"{arguments.model}: {len(jobs)} sites, {len(images)} images, {arguments.bits} bits; {fpcs}")
    parts = arguments.parts.split(",")
    if "brute" in parts:
        print("\nagainst brute force: one search, the other operand in full precision")
        print(f"{'operand':32}{'error ratio':>14}{'time ratio':>14}{'evaluations':>16}")
        for site, operands in _one_of_each_kind(model, images):
            for operand in site.operands:
                _against_brute_force(model, site, operand, operands, jobs[site.name], fpcs, arguments.rows)
    if "gelu" in parts:
        print("\nafter GELU, against every base at 16 scales; with 2^bits codes, and with one more for zero")
        _after_gelu(model, images, jobs, fpcs)
    if "passes" in parts:
        _passes(model, images, jobs, fpcs)
    if "tokens" in parts:
        _tokens(model, images, jobs, fpcs)


def _one_of_each_kind(model: QuantizedModel, images: Tensor) -> list[tuple[Site, dict[str, Tensor]]]:
    """The first site of each name within a block, with its operands."""
    chosen: dict[str, Site] = {}
    for site in model.traced.sites:
        if site.macs:
            chosen.setdefault(re.sub(r"\.\d+\.", ".*.", site.name), site)
    return [(site, _operands(model, images, site)) for site in list(chosen.values())[:12]]


def _operands(model: QuantizedModel, images: Tensor, site: Site) -> dict[str, Tensor]:
    kept: dict[str, Tensor] = {}

    class Keeper(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            kept[self.name] = x.clone()
            return x

    activations = [operand.name for operand in site.operands if not operand.is_weight]
    model.insert_({(site.name, name): Keeper(name) for name in activations})
    with torch.no_grad():
        model.run(images)
    model.remove_()
    weights = {each.name: model.traced.weight(site.name, each.name) for each in site.operands if each.is_weight}
    return {operand.name: (kept | weights)[operand.name] for operand in site.operands}


def _against_brute_force(
    model: QuantizedModel,
    site: Site,
    operand: Operand,
    operands: dict[str, Tensor],
    configs: SiteConfig,
    fpcs: FpcsSettings,
    rows: int,
) -> None:
    config = configs[operand.name]
    solver = SiteSolver(site, operands, replace(_SETTINGS, fpcs=fpcs), convolution_of(model, site))
    if quantizer_class(config.scheme).fitted_fields:
        _against_every_base(solver, site, operand, config)
        return
    other = next(each.name for each in site.operands if each.name != operand.name)
    error = solver.error(operand.name, config, other, None)
    search = solver.searches[operand.name]
    problem = search.affine_problem(config, error, search.observed(config))
    grid, start, loss, screen = problem.grid, problem.incumbent, problem.loss, problem.screen
    assert start is not None
    if operand.is_weight:
        part = slice(0, rows)
        error = replace(error, values=error.values[part])
        grid = replace(
            grid,
            first=grid.first[part],
            second=grid.second[part],
            first_axis=replace(grid.first_axis, step=grid.first_axis.step[part]),
            second_axis=replace(grid.second_axis, step=grid.second_axis.step[part]),
        )
        start = (start[0][part], start[1][part])
        loss, screen = _losses(solver, error, config)
    seconds, found = _least_time(
        lambda: progressive_search(loss, grid, fpcs.kept, fpcs.steps, screen=screen, incumbent=start), 3
    )
    # To keep everything is to evaluate every combination within reach.
    slow, best = _least_time(lambda: progressive_search(loss, grid, _ALL, fpcs.steps, incumbent=start), 1)
    ratio = found[2].sum() / best[2].sum()
    neighbours = fpcs.candidates // fpcs.kept
    reached = grid.first.shape[1] * sum(neighbours**level for level in range(fpcs.steps))
    counts = f"{fpcs.candidates * fpcs.steps}/{reached}"
    print(f"{site.name + ':' + operand.name:32}{ratio:14.5f}{slow / seconds:14.1f}{counts:>16}")


def _after_gelu(model: QuantizedModel, images: Tensor, jobs: dict[str, SiteConfig], fpcs: FpcsSettings) -> None:
    for site in model.traced.sites:
        for operand in (each for each in site.operands if each.producer == "gelu"):
            solver = SiteSolver(site, _operands(model, images, site), replace(_SETTINGS, fpcs=fpcs))
            config = jobs[site.name][operand.name]
            for overflow in ("zero_code", "extra_zero"):
                _against_every_base(solver, site, operand, config.model_copy(update={"overflow": overflow}))


def _against_every_base(solver: SiteSolver, site: Site, operand: Operand, config: OperandConfig) -> None:
    """Base and scale searched together, against every base at 16 scales; after softmax the scale is one."""
    other = next(each.name for each in site.operands if each.name != operand.name)
    seconds, solved = _least_time(lambda: solver.solve({operand.name: config})[operand.name].qparams(), 1)
    error = solver.error(operand.name, config, other, None)
    widest, scales = torch.ones(1, 1), torch.ones(1)
    if operand.producer == "gelu":
        widest = solver.searches[operand.name].observed(config).qparams()["scale"].view(1, 1)
        positive = error.values[error.values > 0]
        narrow = positive.kthvalue(int(_SETTINGS.fpcs.quantile * len(positive))).values + solved["shift"].flatten()
        scales = torch.linspace(float(narrow / widest), 1, 16)
    bases = torch.arange(LEAST_NUMERATOR, GREATEST_NUMERATOR + 1.0)
    loss = scaled_loss(error.shifted(solved["shift"]), log_unit(config, widest.device), widest)
    found = float(loss(solved["log_base_numerator"].view(1, 1), solved["scale"].view(1, 1) / widest))
    slow, best = _least_time(lambda: float(loss(*torch.cartesian_prod(bases, scales).t().unsqueeze(1)).min()), 1)
    print(f"{site.name + ':' + operand.name:32}{found / best:14.5f}{slow / seconds:14.1f}{config.overflow:>16}")


def _losses(solver: SiteSolver, error: QuadraticError, config: OperandConfig) -> tuple[Loss, Loss | None]:
    screened = error.screened(solver._fpcs.screening, 0)
    return affine_loss(error, config.bits), None if screened is None else affine_loss(screened, config.bits)


def _passes(model: QuantizedModel, images: Tensor, jobs: dict[str, SiteConfig], fpcs: FpcsSettings) -> None:
    """All sites at one bit-width."""
    print("\nall sites, in full-precision passes over the images")
    before = _one_pass(model, images)
    spent: defaultdict[str, float] = defaultdict(float)
    counts: defaultdict[str, int] = defaultdict(int)
    total = started = time.perf_counter()
    every = {site: [configs] for site, configs in jobs.items()}
    for site, _, _ in solve_jobs(model, images, _BATCH, every, replace(_SETTINGS, fpcs=fpcs)):
        now = time.perf_counter()
        kind = ".".join(part for part in site.split(".") if not part.isdigit())
        spent[kind] += now - started
        counts[kind] += 1
        started = now
    total = time.perf_counter() - total
    one = min(before, _one_pass(model, images))
    for kind, seconds in spent.items():
        print(f"{kind:32}{seconds / one:10.1f} passes{seconds / one / counts[kind]:10.2f} each of {counts[kind]}")
    print(f"{'all':32}{total / one:10.1f} passes{total / one / len(jobs):10.2f} each of {len(jobs)}")
    print(f"one pass {one * 1e3:.0f} ms, all sites {total:.1f} s")


def _tokens(model: QuantizedModel, images: Tensor, jobs: dict[str, SiteConfig], fpcs: FpcsSettings) -> None:
    """Layer error of all vectors, by how many were searched on."""
    print("\nlayer error by sampled vectors per head, relative to all of them; window of zero points; screening")
    chosen = _one_of_each_kind(model, images)
    variants = {str(count): replace(fpcs, tokens=count) for count in (32, 128, 256, 512)}
    variants["all"] = replace(fpcs, tokens=1 << 30)
    variants["unscreened"] = replace(fpcs, screening=0)
    variants["observed"] = replace(fpcs, zero_point_window="observed")
    variants["1 round"] = replace(fpcs, rounds=1)
    variants["3 rounds"] = replace(fpcs, rounds=3)
    variants["6 steps"] = replace(fpcs, steps=6)
    print(f"{'site':28}" + "".join(f"{name:>12}" for name in [*variants, "min-max"]))
    totals: defaultdict[str, float] = defaultdict(float)
    for site, operands in chosen:
        reached = {}
        for name, variant in variants.items():
            solver = SiteSolver(site, operands, replace(_SETTINGS, fpcs=variant), convolution_of(model, site))
            started = time.perf_counter()
            solved = solver.solve(jobs[site.name])
            totals[name] += time.perf_counter() - started
            reached[name] = _layer_error(site, operands, solved, model)
        observed = {name: solver.searches[name].observed(config) for name, config in jobs[site.name].items()}
        reached["min-max"] = _layer_error(site, operands, observed, model)
        print(f"{site.name:28}" + "".join(f"{error / reached['all']:12.4f}" for error in reached.values()))
    print(
        f"{'time relative to ' + str(fpcs.tokens):28}"
        + "".join(f"{totals[v] / totals[str(fpcs.tokens)]:12.2f}" for v in variants)
    )


def _layer_error(
    site: Site, operands: dict[str, Tensor], quantizers: dict[str, BaseQuantizer], model: QuantizedModel
) -> float:
    """Squared error of the site's whole output, computed directly."""
    full = list(operands.values())
    quantized = [quantizers[name](value) for name, value in operands.items()]
    if site.op == "linear":
        outputs = [nn.functional.linear(*pair) for pair in (full, quantized)]
    elif site.op == "conv2d":
        geometry = convolution_of(model, site)
        assert geometry is not None
        before = tuple(pair[0] for pair in geometry.padding)
        outputs = [
            nn.functional.conv2d(*pair, None, geometry.stride, before, geometry.dilation, geometry.groups)
            for pair in (full, quantized)
        ]
    else:
        outputs = [left @ right for left, right in (full, quantized)]
    return float((outputs[1].double() - outputs[0].double()).square().sum())


def _one_pass(model: QuantizedModel, images: Tensor) -> float:
    def run() -> None:
        for batch in torch.split(images, _BATCH):
            model.run(batch)

    with torch.inference_mode():
        return _least_time(run, 7)[0]


def _least_time(run: Callable[[], _T], repeats: int) -> tuple[float, _T]:
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


if __name__ == "__main__":
    main()
