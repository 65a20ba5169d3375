"""Second-order weights against rounding to nearest and against AdaRound: layer-output error and time, per bit-width.

    python -m benchmarks.second_order [--model vit_digits] [--data digits] [--images 128] [--bits 2,3,4,6,8]

Errors are tr((W − Ŵ) XᵀX (W − Ŵ)ᵀ) over the inputs X of the calibration images, divided by that of rounding to nearest
on the same grid (scales of least squared error, a scale an output channel); the geometric mean over layers. AdaRound
minimises the same error, through the same Gram matrix, from the weights in full precision, or from second-order codes.
Times are of the processor, for all layers; the ratio to the full-precision pass that gathers Gram matrices is what
carries over to other machines.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from autoq.calibration import CalibrationSettings
from autoq.calibration.second_order.gram import LayerInput, capture_grams
from autoq.calibration.second_order.weights import LayerRounding, RoundedWeight
from autoq.calibration.solvers import OperandSolver
from autoq.data import load_images, open_source, subset
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.models import load_model
from autoq.quantizers import BaseQuantizer, UniformQuantizer
from autoq.recipe import OperandConfig
from autoq.reconstruction.rounding import LearnedRounding
from autoq.reconstruction.settings import ReconstructionSettings
from autoq.version import __version__

_T = TypeVar("_T")
_BATCH = 32
_WAYS = ("nearest", "second order", "AdaRound", "AdaRound from second order")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--bits", default="2,3,4,6,8")
    parser.add_argument("--layers", type=int, default=12, help="how many, evenly spread")
    parser.add_argument("--sites", nargs="*", help="of the layers, by name, in place of how many")
    parser.add_argument("--iterations", type=int, default=1000, help="of AdaRound")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{platform.machine()}, {platform.processor() or platform.system()}, {arguments.threads} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}, autoq {__version__}"
    )
    loaded = load_model(arguments.model)
    source = open_source(arguments.data, "calibration")
    images = load_images(source, subset(source, arguments.images, 0), loaded.transform)
    model = QuantizedModel(trace(loaded.module, images[:2]))
    known = [site.name for site in model.traced.sites if LayerInput.of_site(model, site.name) is not None]
    count = min(arguments.layers, len(known))
    sites = arguments.sites or [known[index * len(known) // count] for index in range(count)]
    batches = torch.split(images, _BATCH)
    grams, one_pass = _timed(lambda: capture_grams(model, batches, sites))
    _, bare = _timed(lambda: _one_pass(model, batches))
    print(f"{arguments.model}: {len(sites)} of {len(known)} layers, {len(images)} images")
    print(f"one full-precision pass {bare:.2f} s, with Gram matrices {one_pass:.2f} s")
    print(f"\n{'bits':>4}  " + "".join(f"{way:>28}" for way in _WAYS))
    settings = ReconstructionSettings(iterations=arguments.iterations)
    for bits in map(int, arguments.bits.split(",")):
        _compare(model, grams, bits, settings, one_pass)


def _compare(
    model: QuantizedModel, grams: Mapping[str, Tensor], bits: int, settings: ReconstructionSettings, one_pass: float
) -> None:
    """Print mean error ratios and times of one width."""
    seconds = dict.fromkeys(_WAYS, 0.0)
    ratios: defaultdict[str, list[float]] = defaultdict(list)
    config = OperandConfig(scheme="uniform", bits=bits, granularity="channel")
    for site, gram in grams.items():
        operand, weight = model.traced.sites_by_name[site].operand("weight"), model.traced.weight(site)
        quantizer = OperandSolver(operand, weight, CalibrationSettings()).solve(config)
        assert isinstance(quantizer, UniformQuantizer)
        rounded = RoundedWeight(quantizer, quantizer.quantize(weight))
        runs = (
            lambda: quantizer(weight),  # noqa: B023
            lambda: _second_order(weight, quantizer, gram),  # noqa: B023
            lambda: _ada_round(weight, quantizer, None, gram, settings),  # noqa: B023
            lambda: _ada_round(weight, rounded.quantizer, rounded.codes, gram, settings),  # noqa: B023
        )
        errors = {}
        for way, run in zip(_WAYS, runs, strict=True):
            started = time.process_time()
            found = run()
            seconds[way] += time.process_time() - started
            if isinstance(found, RoundedWeight):
                rounded, found = found, found.quantizer.dequantize(found.codes)
            errors[way] = _error(weight, found, gram, quantizer)
            ratios[way].append(errors[way] / errors["nearest"])
    cells = [
        f"{math.exp(sum(map(math.log, ratios[way])) / len(ratios[way])):.4f} in {seconds[way]:.1f} s "
        f"({seconds[way] / one_pass:.2f})"
        for way in _WAYS
    ]
    print(f"{bits:>4}  " + "".join(f"{cell:>28}" for cell in cells), flush=True)


def _second_order(weight: Tensor, quantizer: UniformQuantizer, gram: Tensor) -> RoundedWeight:
    """Round a weight, its Gram matrix factored for it alone."""
    nearest = RoundedWeight(quantizer, quantizer.quantize(weight))
    return LayerRounding(weight, gram).round(quantizer) or nearest


def _ada_round(
    weight: Tensor, quantizer: BaseQuantizer, codes: Tensor | None, gram: Tensor, settings: ReconstructionSettings
) -> Tensor:
    """Learn the rounding of a weight by its layer's output error, as ``train_block`` does by a block's."""
    assert isinstance(quantizer, UniformQuantizer)
    rounding = LearnedRounding(weight, quantizer, codes)
    start = quantizer(weight) if codes is None else quantizer.dequantize(codes)
    scale = max(_error(weight, start, gram, quantizer), torch.finfo(torch.float32).tiny)
    optimizer = torch.optim.Adam([rounding.direction], lr=settings.rounding_rate)
    warm_up = settings.warm_up * settings.iterations
    for done in range(settings.iterations):
        difference = quantizer.layout.rows(rounding(weight) - weight)
        loss = ((difference @ gram) * difference).sum() / scale
        if done >= warm_up:
            share = (done - warm_up) / (settings.iterations - warm_up)
            exponent = settings.exponent_end + (settings.exponent_start - settings.exponent_end) * (1 - share)
            loss = loss + settings.regularization * rounding.undecided(exponent)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return quantizer.dequantize(rounding.codes())


def _error(weight: Tensor, value: Tensor, gram: Tensor, quantizer: BaseQuantizer) -> float:
    difference = quantizer.layout.rows(value - weight).double()
    return float(((difference @ gram.double()) * difference).sum())


def _timed(run: Callable[[], _T]) -> tuple[_T, float]:
    started = time.process_time()
    result = run()
    return result, time.process_time() - started


def _one_pass(model: QuantizedModel, batches: tuple[Tensor, ...]) -> None:
    model.remove_()
    with torch.inference_mode():
        for batch in batches:
            model.run(batch)


if __name__ == "__main__":
    main()
