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
from pathlib import Path

import torch

from autoq.calibration import OBSERVERS, Bank, CalibrationSettings, capture
from autoq.data import load_images, open_source, subset
from autoq.graph.insert import QuantizedModel
from autoq.graph.trace import trace
from autoq.models import load_model
from autoq.search.space import load_space

_BATCH = 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
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

    loaded = load_model(arguments.model)
    source = open_source(arguments.data, "calibration")
    images = load_images(source, subset(source, arguments.images, 0), loaded.transform)
    traced = trace(loaded.module, images[:2])
    model = QuantizedModel(traced)
    settings = CalibrationSettings(observer=arguments.observer)
    print(f"{arguments.model}: {len(traced.sites)} sites, {traced.macs / 1e6:,.1f} M MACs, {len(images)} images")

    batches = torch.split(images, _BATCH)
    one_pass = min(_seconds_of_pass(model, batches) for _ in range(3))
    print(f"{'one full-precision pass':28}{one_pass:8.3f} s")

    started = time.perf_counter()
    samples = capture(model, batches, settings)
    seconds = {"capture": time.perf_counter() - started}
    counts = {"capture": 1}
    kept = sum(sample.values.nbytes for sample in samples.values())

    resolved = load_space(arguments.space).resolve(traced.sites)
    options = [
        (site.name, operand.name, config)
        for site, operand in traced.operands()
        for config in resolved.options_for(site.name, operand.name)
    ]
    bank = Bank(model, samples, settings, {})
    spent: defaultdict[str, float] = defaultdict(float)
    solved: defaultdict[str, int] = defaultdict(int)
    for site_name, operand_name, config in options:
        is_weight = traced.sites_by_name[site_name].operand(operand_name).is_weight
        kind = "weights" if is_weight else f"activations, {config.scheme}"
        started = time.perf_counter()
        bank.quantizer(site_name, operand_name, config)
        spent[kind] += time.perf_counter() - started
        solved[kind] += 1
    seconds |= spent
    counts |= solved

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        bank.save(folder)
        seconds["save"] = time.perf_counter() - started
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        started = time.perf_counter()
        Bank(model, samples, settings, {}).load(folder)
        seconds["load"] = time.perf_counter() - started

    for phase, value in seconds.items():
        each = f"{value / counts[phase] * 1e3:8.2f} ms each of {counts[phase]}" if counts.get(phase, 1) > 1 else ""
        print(f"{phase:28}{value:8.3f} s{value / one_pass:8.1f} passes{each}")
    total = sum(seconds.values())
    print(f"{'all':28}{total:8.3f} s{total / one_pass:8.1f} passes")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"samples {kept / 1e6:.1f} MB, bank {size / 1e6:.2f} MB on disk, peak memory {peak:.2f} GiB")


def _seconds_of_pass(model: QuantizedModel, batches: tuple[torch.Tensor, ...]) -> float:
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in batches:
            model.run(batch)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
