"""What each step of the default calibration gains, at uniform bits: rounding, rescaling, rotation, finishing.

    python -m benchmarks.calibration_steps --model local-dir:vit_c10 --data cifar10/calib --eval-data cifar10/val

Every activation has one range a tensor (one a head for queries, keys and values), logarithms follow softmax and GELU,
the image has 8 bits, weights one scale an output channel. KL is over the images that calibrated and over others, top-1
over the first labelled images. Seconds are wall time, calibration included.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from autoq.graph.canonical import canonical
from autoq.graph.sites import Operand
from autoq.graph.trace import TracedModel
from autoq.recipe import OperandConfig, SiteConfig
from autoq.reconstruction.finishing import finish
from autoq.runs.images import LabelledImages
from autoq.runs.opening import open_bank
from autoq.runs.session import Session
from autoq.runs.settings import PLAIN_CALIBRATION, CalibrationChoices
from autoq.scoring import Evaluator, measure_accuracy
from autoq.scoring.solved_operands import SolvedOperands
from autoq.scoring.sources import SolvedSource

STEPS: Mapping[str, Mapping[str, bool]] = {
    "as it is": {},
    "second-order weights": {"second_order": True},
    "and reparameterized": {"second_order": True, "reparameterize": True},
    "and rotated": {"second_order": True, "rotate": True},
    "rotated and reparameterized": {"second_order": True, "reparameterize": True, "rotate": True},
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--eval-data", required=True)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--others", type=int, default=256)
    parser.add_argument("--labelled", type=int, default=400)
    parser.add_argument("--finish", type=int, default=512, help="images to finish on; 0: do not finish")
    arguments = parser.parse_args()
    session = Session.open(arguments.model)
    count = arguments.images + arguments.others + max(0, arguments.finish - arguments.images)
    loaded = session.calibration_images(arguments.data, count, 0)
    calibrating = replace(loaded, tensor=loaded.tensor[: arguments.images])
    others = loaded.tensor[arguments.images : arguments.images + arguments.others]
    learning = torch.cat([calibrating.tensor, loaded.tensor[arguments.images + arguments.others :]])
    labelled = session.labelled_images(arguments.eval_data)
    assert labelled is not None
    sys.stdout.write(
        f"{platform.machine()}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch "
        f"{torch.__version__}; {arguments.model} at {arguments.bits} bits, {len(calibrating.tensor)} images calibrate, "
        f"{len(others)} others\n\n| calibration | KL | on others | top-1 of {arguments.labelled} | seconds |\n"
        "| --- | --- | --- | --- | --- |\n"
    )
    for name, changes in STEPS.items():
        started = time.monotonic()
        choices = CalibrationChoices.model_validate({**PLAIN_CALIBRATION, **changes})
        with tempfile.TemporaryDirectory() as folder:
            opened, bank = open_bank(session, calibrating, choices, folder)
        operands = SolvedOperands.from_bank(bank, uniform_sites(opened.traced, arguments.bits))
        sets = (calibrating.tensor, others)
        _print_row(name, opened, operands, sets, first_batches(labelled, arguments.labelled), started)
        if arguments.finish:
            finished = finish(opened.model, operands, learning, batch_size=64)
            title = f"{name}, finished on {len(learning)}"
            _print_row(title, opened, finished, sets, first_batches(labelled, arguments.labelled), started)


def uniform_sites(traced: TracedModel, bits: int) -> dict[str, SiteConfig]:
    """Return a recipe with one width."""
    products = [site for site in traced.sites if site.macs]
    return {
        site.name: {
            each.name: canonical(_config(each, 8 if site is products[0] and not each.is_weight else bits), each)
            for each in site.operands
        }
        for site in products
    }


def _config(operand: Operand, bits: int) -> OperandConfig:
    if operand.is_weight:
        return OperandConfig(scheme="uniform", bits=bits, granularity="channel")
    if operand.producer in ("softmax", "gelu"):
        return OperandConfig(scheme="adalog", bits=bits)
    return OperandConfig(scheme="uniform", bits=bits, granularity="tensor" if operand.name == "input" else "head")


def first_batches(labelled: LabelledImages, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches until there are so many images."""
    seen = 0
    for images, labels in labelled.batches():
        if seen >= count:
            return
        seen += len(images)
        yield images, labels


def _print_row(
    name: str,
    session: Session,
    operands: SolvedOperands,
    sets: tuple[Tensor, Tensor],
    labelled: Iterator[tuple[Tensor, Tensor]],
    started: float,
) -> None:
    """Score on both sets of images and on labelled ones."""
    source, task = SolvedSource(session.model, operands), session.task
    evaluators = [Evaluator(session.model, source, images, cache_bytes=0, task=task) for images in sets]
    losses = " | ".join(f"{evaluator.evaluate(operands.sites).kl_nats:.2g}" for evaluator in evaluators)
    accuracy = measure_accuracy(session.model, labelled, task=task)
    seconds = time.monotonic() - started
    sys.stdout.write(f"| {name} | {losses} | {accuracy.metrics['top1_percent']:.1f} | {seconds:.0f} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
