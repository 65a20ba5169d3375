"""How long a search takes and how much memory, by model: the table of docs/time_and_memory.md.

python -m benchmarks.time_and_memory vit_digits local-dir:vit_c10 deit_tiny_patch16_224

Each model is searched in a process of its own, with random images and, unless it is bundled or a folder, with random
weights: times do not depend on them. Times are of the processor, phase by phase as the search reports them, so that
neighbours on the machine do not count; on one thread they are those of a machine that does nothing else. Memory is the
process's peak, PyTorch included.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections import defaultdict

import timm
import torch

import autoq
from autoq.events import Event, FirstRecipe, PhaseAdvanced, PhaseStarted, TrialFinished
from autoq.runs.session import Session
from autoq.scoring import choose_batch_size

PREPARATION = ("capture", "calibration")
COLUMNS = (
    "model",
    "parameters",
    "MACs",
    "images",
    "prepare",
    "sensitivities",
    "first recipe",
    "a recipe",
    "200 recipes",
    "peak memory",
)


class Clock:
    """Seconds of processor time by phase, and when each trial ended."""

    def __init__(self) -> None:
        """Start with the model."""
        self.seconds: dict[str, float] = defaultdict(float)
        self.trials: list[float] = []
        self.first = self.measured_since = 0.0
        self.phase, self.since = "model", time.process_time()

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        now = time.process_time()
        if isinstance(event, (PhaseStarted, PhaseAdvanced, TrialFinished)):
            self.seconds[self.phase] += now - self.since
            self.since = now
        if isinstance(event, PhaseStarted):
            self.phase = event.phase
            if event.phase == "sensitivity":
                self.measured_since = now
        if isinstance(event, TrialFinished):
            self.trials.append(now)
        if isinstance(event, FirstRecipe):
            self.first = now - self.measured_since


def main() -> None:
    """Measure every model in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names as for autoq search --model")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--calib-images", type=int, default=128)
    parser.add_argument("--fast", action="store_true", help="as autoq search --fast")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.models[0], arguments)))
        return
    machine = platform.processor() or platform.machine()
    print(
        f"{machine}, {arguments.threads} threads, {arguments.device}; torch {torch.__version__}, "
        f"timm {timm.__version__}\n"
    )
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    for model in arguments.models:
        options = [part for part in sys.argv[1:] if part not in arguments.models]
        command = [sys.executable, "-m", "benchmarks.time_and_memory", "--child", *options, model]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        print(row(json.loads(done.stdout.splitlines()[-1])), flush=True)


def measure(name: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Search one model and return its figures."""
    torch.set_num_threads(arguments.threads)
    pretrained = name.startswith("local-dir:") or name == "vit_digits"
    sites = autoq.sites(name, pretrained=pretrained)
    shape = sites["shape"].iloc[0][1:]
    images = torch.randn(2 * arguments.calib_images, *shape, generator=torch.Generator().manual_seed(0))
    clock = Clock()
    autoq.search(
        name,
        images,
        "w4a4",
        trials=arguments.trials,
        calib_images=arguments.calib_images,
        fast=arguments.fast,
        baselines="uniform",
        finish=False,
        pretrained=pretrained,
        device=arguments.device,
        progress=clock,
    )
    weights = sites[sites["operand"] == "weight"]["shape"]
    return {
        "model": name,
        "parameters": int(sum(torch.Size(shape).numel() for shape in weights)),
        "macs": int(sites.drop_duplicates("site")["macs"].sum()),
        "images": arguments.calib_images,
        "prepare": sum(clock.seconds[phase] for phase in PREPARATION),
        "sensitivity": clock.seconds["sensitivity"],
        "first": clock.first,
        "pass": seconds_of_pass(Session.open(name, pretrained, arguments.device), images[: arguments.calib_images]),
        "trial": (clock.trials[-1] - clock.trials[0]) / (len(clock.trials) - 1),
        "gibibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2,
    }


def seconds_of_pass(session: Session, images: torch.Tensor) -> float:
    """Return the least time of three passes over the images in full precision."""
    parts = torch.split(images.to(session.device), choose_batch_size(session.traced))
    taken = []
    with torch.inference_mode():
        for _ in range(3):
            started = time.process_time()
            for part in parts:
                session.model.run(part)
            taken.append(time.process_time() - started)
    return min(taken)


def row(result: dict[str, float]) -> str:
    """Format one row of the table."""
    cells = [
        f"`{result['model']}`",
        f"{result['parameters'] / 1e6:.3g} M",
        f"{result['macs'] / 1e9:.3g} G",
        str(result["images"]),
        duration(result["prepare"]),
        duration(result["sensitivity"]),
        f"{duration(result['first'])} ({result['first'] / result['pass']:.0f} passes)",
        duration(result["trial"]),
        duration(200 * result["trial"]),
        f"{result['gibibytes']:.1f} GiB",
    ]
    return f"| {' | '.join(cells)} |"


def duration(seconds: float) -> str:
    """Write a time as 0.12 s, 7 s or 10 min."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


if __name__ == "__main__":
    main()
