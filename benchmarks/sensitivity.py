"""How estimates of single operands' losses rank, and what they cost.

python -m benchmarks.sensitivity --model vit_digits --data digits --images 128 --options 300
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import scipy
import timm
import torch
from scipy.stats import kendalltau, spearmanr

from autoq.calibration import Bank, CalibrationSettings
from autoq.errors import NonFiniteError
from autoq.optimization.space import load_space, resolve_space
from autoq.runs.sensitivity import options_of_space
from autoq.runs.session import Session
from autoq.scoring import Evaluator, choose_batch_size
from autoq.sensitivity.fisher import FisherSettings, fisher_losses
from autoq.sensitivity.measure import Option
from autoq.sensitivity.perturbation_hessian import average_perturbation_hessian
from autoq.sensitivity.weighted_errors import aph_losses

Losses = dict[Option, float]
Result = TypeVar("Result")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--space", default="vit_w2-8")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--options", type=int, default=300, help="random ones of the space's")
    parser.add_argument("--probes", type=int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{platform.processor() or platform.machine()}, {arguments.threads} threads, Python {platform.python_version()}"
    )
    print(f"torch {torch.__version__}, timm {timm.__version__}, scipy {scipy.__version__}")

    session = Session.open(arguments.model, device="cpu")
    images = session.calibration_images(arguments.data, arguments.images, arguments.seed)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings())
    every = options_of_space(resolve_space(load_space(arguments.space), session.traced.sites))
    chosen = set(random.Random(arguments.seed).sample(range(len(every)), min(arguments.options, len(every))))
    options = [option for index, option in enumerate(every) if index in chosen]
    bank.solve_all(options)
    batches = torch.split(images.tensor, choose_batch_size(session.traced))
    sites = list(dict.fromkeys(site for site, _, _ in options))

    evaluator = Evaluator(session.model, bank, images.tensor, cache_bytes=0)
    seconds = [timed(lambda: evaluator.evaluate({}))[1] for _ in range(5)]
    one_pass = statistics.median(seconds)
    print(
        f"{arguments.model}, {len(images.tensor)} images, {len(options)} of {len(every)} options, "
        f"a full-precision pass takes {one_pass:.3f} s"
    )

    kl, kl_seconds = timed(lambda: {option: true_kl(evaluator, option) for option in options})
    runs: dict[str, Callable[[], Losses]] = {
        f"fisher, {probes} probes": lambda k=probes: fisher_losses(  # type: ignore[misc]
            bank, batches, options, FisherSettings(k, arguments.seed)
        )
        for probes in arguments.probes
    }
    runs["aph"] = lambda: aph_losses(bank, batches, average_perturbation_hessian(bank.model, batches, sites), options)
    runs["output MSE"] = lambda: output_mse(bank, batches, sites, options)
    widths = sorted({option[2].bits for option in options})
    print(
        f"\n{'':<18} {'passes':>7} {'seconds':>8} {'tau':>6} {'rho':>6}  tau at " + "".join(f"{b:>7}b" for b in widths)
    )
    print(f"{'true KL':<18} {kl_seconds / one_pass:7.1f} {kl_seconds:8.2f}")
    for name, run in runs.items():
        found, taken = timed(run)
        by_width = [kendalltau(*pairs(kl, found, [o for o in options if o[2].bits == b])).statistic for b in widths]
        both = pairs(kl, found, options)
        print(
            f"{name:<18} {taken / one_pass:7.1f} {taken:8.2f} {kendalltau(*both).statistic:6.3f} "
            f"{spearmanr(*both).statistic:6.3f}         " + "".join(f"{tau:8.3f}" for tau in by_width)
        )


def timed(run: Callable[[], Result]) -> tuple[Result, float]:
    """A result, and the seconds it took."""
    started = time.perf_counter()
    result = run()
    return result, time.perf_counter() - started


def true_kl(evaluator: Evaluator, option: Option) -> float:
    """KL divergence in nats of one operand quantized alone."""
    site, operand, config = option
    try:
        return evaluator.evaluate({site: {operand: config}}).kl_nats
    except NonFiniteError:
        return float("inf")


def output_mse(
    bank: Bank, batches: Sequence[torch.Tensor], sites: Sequence[str], options: Sequence[Option]
) -> dict[Option, float]:
    """Mean squared error of the site's output: a Hessian that is the same for all elements."""
    shapes = average_perturbation_hessian(bank.model, [batches[0][:1]], sites)
    uniform = {site: torch.full_like(hessian, 2 / hessian.numel()) for site, hessian in shapes.items()}
    return aph_losses(bank, batches, uniform, options)


def pairs(kl: Losses, found: Losses, options: Sequence[Option]) -> tuple[list[float], list[float]]:
    """Both losses of some options."""
    return [kl[option] for option in options], [found[option] for option in options]


if __name__ == "__main__":
    main()
