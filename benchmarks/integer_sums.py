"""What quantized residual sums and inputs of LayerNorms and softmaxes cost and gain in onnxruntime.

    python -m benchmarks.integer_sums --model local-dir:vit_c10 --data cifar10/calib

Weights have 7 bits and one scale an output channel, all else 8 bits and one scale; ranges are those of 128 images.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Collection
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from autoq.calibration import Bank, CalibrationSettings
from autoq.exporters import EXPORTERS, ExportSource, write_export
from autoq.exporters.onnx_model import onnxruntime_runner
from autoq.exporters.timing import time_in_pairs
from autoq.recipe import OperandConfig, Recipe, SiteConfig
from autoq.runs.session import Session
from autoq.scoring.quantized_module import QuantizedModule
from autoq.scoring.solved_operands import SolvedOperands

CASES: dict[str, tuple[str, ...]] = {
    "products": (),
    "and sums": ("add",),
    "and LayerNorms": ("add", "layer_norm"),
    "and softmaxes": ("add", "layer_norm", "softmax"),
}
"""Kinds of sites that multiply nothing and are quantized, too."""


def sites_of(session: Session, kinds: Collection[str]) -> dict[str, SiteConfig]:
    """Configure all operands of products, and of some other kinds of site."""
    sites: dict[str, SiteConfig] = {}
    for site, operand in session.traced.operands():
        if site.macs or site.op in kinds:
            is_weight = operand.name == "weight"
            config = OperandConfig(
                scheme="uniform", bits=7 if is_weight else 8, granularity="channel" if is_weight else "tensor"
            )
            sites.setdefault(site.name, {})[operand.name] = config
    return sites


def export_case(session: Session, images: Tensor, sites: dict[str, SiteConfig], path: Path) -> str:
    """Calibrate and export a recipe; describe its discrepancy and how the file agrees with it."""
    operands = SolvedOperands.from_bank(Bank(session.model, images, CalibrationSettings(observer="min_max"), {}), sites)
    recipe = Recipe(model=session.reference, sites=sites)
    module = QuantizedModule(session.traced, operands, recipe, preprocessing={})
    with torch.no_grad():
        full, found = (model(images).log_softmax(-1) for model in (session.traced.graph_module, module))
    kl = torch.nn.functional.kl_div(found, full, log_target=True, reduction="batchmean")
    report = write_export(EXPORTERS["onnx"](), ExportSource(recipe, lambda: module, lambda: images[:64]), path)
    assert report.agreement is not None
    return f"{float(kl):.5f} | {report.agreement.agreement_percent:.1f} %"


def main() -> None:
    """Export, time in pairs, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    session = Session.open(arguments.model, device="cpu")
    images = session.calibration_images(arguments.data, 128, 0).tensor
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate(["float", *CASES])}
        found = {"float": export_case(session, images, {}, paths["float"])}
        for name, kinds in CASES.items():
            found[name] = export_case(session, images, sites_of(session, kinds), paths[name])
        timings = []
        for batch in (1, 8):
            runs = {name: partial(onnxruntime_runner(path), images[:batch]) for name, path in paths.items()}
            timings.append(time_in_pairs(runs, arguments.rounds))
    print("| quantized | KL | agrees with autoq | batch 1 | batch 8 |\n| --- | --- | --- | --- | --- |")
    for name in CASES:
        times = (f"{each[name].speedup:.2f} × ({each[name].low:.2f} to {each[name].high:.2f})" for each in timings)
        print(f"| {name} | {found[name]} | {' | '.join(times)} |")


if __name__ == "__main__":
    main()
