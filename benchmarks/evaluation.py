"""Time of tracing, of a full-precision pass and of one candidate's evaluation, and the memory they take.

python -m benchmarks.evaluation --model deit_tiny_patch16_224 --no-pretrained --data IMAGES
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import time
from collections.abc import Callable

import optuna
import timm
import torch

from autoq.calibration import CalibrationSettings
from autoq.cost import model_cost
from autoq.graph.trace import trace
from autoq.scoring import Evaluator, choose_batch_size
from autoq.scoring.session import Session
from autoq.search.space import load_space
from autoq.units import format_bops


def peak_mib() -> float:
    """Greatest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--no-pretrained", action="store_true")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{platform.processor() or platform.machine()}, {arguments.threads} threads, Python {platform.python_version()}"
    )
    print(f"torch {torch.__version__}, timm {timm.__version__}, optuna {optuna.__version__}")

    session = Session.open(arguments.model, not arguments.no_pretrained, "cpu")
    started = time.perf_counter()
    trace(session.loaded.module, torch.zeros(2, *session.loaded.input_size))
    print(f"trace                    {time.perf_counter() - started:8.2f} s   peak {peak_mib():6.0f} MiB")

    images = session.calibration_images(arguments.data, arguments.images, 0)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings())
    spaces = {name: load_space(name).resolve(session.traced.sites) for name in ("bits_only", "vit_w2-8")}
    candidates = {
        "uniform w8a8": spaces["bits_only"].sites_for(spaces["bits_only"].uniform_assignment(8)),
        "uniform w4a4": spaces["bits_only"].sites_for(spaces["bits_only"].uniform_assignment(4)),
        "w4a4, adalog": spaces["vit_w2-8"].sites_for(spaces["vit_w2-8"].uniform_assignment(4)),
        "w4a4, adalog, 8 groups": spaces["vit_w2-8"].sites_for(spaces["vit_w2-8"].uniform_assignment(4, 8)),
    }
    started = time.perf_counter()
    for sites in candidates.values():
        bank.apply_(sites)
    print(f"solve the candidates     {time.perf_counter() - started:8.2f} s   peak {peak_mib():6.0f} MiB")
    evaluator = Evaluator(session.model, bank, images.tensor)
    print(f"{evaluator.images} images in batches of {choose_batch_size(session.traced)}")

    runs: dict[str, Callable[[], object]] = {"full precision, eager": lambda: eager(session, images.tensor)}
    runs["full precision"] = lambda: evaluator.evaluate({})
    runs |= {name: (lambda sites=sites: evaluator.evaluate(sites)) for name, sites in candidates.items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):  # interleaved, so that a busy neighbour slows all alike
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    base = seconds["full precision"]
    for name, measured in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(measured, base, strict=True))
        cost = format_bops(model_cost(session.traced.sites, candidates.get(name, {})).bops)
        print(f"{name:<24} {statistics.median(measured):8.3f} s   ratio {ratio:5.2f}   {cost}")
    print(f"peak memory {peak_mib():.0f} MiB")


def eager(session: Session, images: torch.Tensor) -> None:
    """The untraced model over the same images in the same batches."""
    with torch.inference_mode():
        for batch in torch.split(images, choose_batch_size(session.traced)):
            session.loaded.module(batch)


if __name__ == "__main__":
    main()
