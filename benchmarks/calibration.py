"""What calibration costs, phase by phase, beside one full-precision pass over the same images.

    python -m benchmarks.calibration [--model vit_digits] [--data digits] [--space vit_w2-8] [--images 128]

Solves every option of the search space. Seconds are wall time; the ratio to a full-precision pass is what carries over
to other machines.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch

from autoq.calibration import OBSERVERS, Bank, CalibrationSettings
from autoq.calibration.bank.files import SolvedKey
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.data import load_images, open_source, subset
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.models import load_model
from autoq.optimization.space import load_space, resolve_space

_BATCH = 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--no-pretrained", action="store_true")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--space", default="vit_w2-8")
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--observer", choices=OBSERVERS, default="mse")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{platform.machine()}, {platform.processor() or platform.system()}, {arguments.threads} threads, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )

    loaded = load_model(arguments.model, pretrained=not arguments.no_pretrained)
    source = open_source(arguments.data, "calibration")
    images = load_images(source, subset(source, arguments.images, 0), loaded.transform)
    traced = trace(loaded.module, images[:2])
    model = QuantizedModel(traced)
    settings = CalibrationSettings(observer=arguments.observer, fpcs=FpcsSettings(rounds=0))
    print(f"{arguments.model}: {len(traced.sites)} sites, {traced.macs / 1e6:,.1f} M MACs, {len(images)} images")

    batches = torch.split(images, _BATCH)
    one_pass = min(_seconds(lambda: _one_pass(model, batches)) for _ in range(3))
    print(f"{'one full-precision pass':28}{one_pass:8.3f} s")

    resolved = resolve_space(load_space(arguments.space), traced.sites)
    kinds: defaultdict[str, list[SolvedKey]] = defaultdict(list)
    for site, operand in traced.operands():
        for config in resolved.options_for(site.name, operand.name):
            kind = "weights" if operand.is_weight else f"activations, {config.scheme}"
            kind = "by layer output" if arguments.observer == "fpcs" else kind  # both operands of a site at once
            kinds[kind].append((site.name, operand.name, config))
    bank = Bank(model, images, settings, {}, batch_size=_BATCH)
    seconds: dict[str, float] = {}
    counts: dict[str, int] = {}
    if arguments.observer != "fpcs":
        first = next(key for kind, keys in kinds.items() if kind != "weights" for key in keys)
        seconds["capture and one option"] = _seconds(lambda: bank.quantizer(*first))
    for kind, keys in kinds.items():
        seconds[kind] = _seconds(lambda: bank.solve_all(keys, workers=arguments.threads))  # noqa: B023
        counts[kind] = len(keys)

    with tempfile.TemporaryDirectory() as folder:
        seconds["save"] = _seconds(lambda: bank.save(folder))
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        seconds["load"] = _seconds(lambda: Bank(model, images, settings, {}).load(folder))

    for phase, value in seconds.items():
        each = f"{value / counts[phase] * 1e3:8.2f} ms each of {counts[phase]}" if counts.get(phase, 1) > 1 else ""
        print(f"{phase:28}{value:8.3f} s{value / one_pass:8.1f} passes{each}")
    total = sum(seconds.values())
    print(f"{'all':28}{total:8.3f} s{total / one_pass:8.1f} passes")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(bank)} options, bank {size / 1e6:.2f} MB on disk, peak memory {peak:.2f} GiB")


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _one_pass(model: QuantizedModel, batches: tuple[torch.Tensor, ...]) -> None:
    with torch.inference_mode():
        for batch in batches:
            model.run(batch)


if __name__ == "__main__":
    main()
