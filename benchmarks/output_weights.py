"""PTQ4ViT's weights of squared output errors: as its code gets them, as its paper means them, and none.

    python -m benchmarks.output_weights --model local-dir:vit_c10 --data cifar10/calib --others cifar10/val \
        [--images 8 32] [--bits w4a4 w3a3]

The code takes the gradients of the KL divergence of the model from itself, both in full precision: rounding errors of
the predictions, which go back through the model. First, how large they are at the logits beside vectors whose squares
have the Fisher information as their mean, and by site, how squared gradients of both rank the outputs (Spearman). Then
the KL divergence of ``published`` with each, from full precision, on images that it was not calibrated on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from autoq.calibration.fpcs.output_weights import IMAGES_AT_ONCE, PROBES, OutputWeights
from autoq.runs.session import Session
from autoq.tasks import BaseTask
from benchmarks.protocol_differences import measure, switched

_RANKED = 200_000
"""Outputs of a site whose ranks are compared."""
_SCALE = 1e6
"""Of the code's gradients, whose squares would else be close to the least numbers; weights are relative."""


class OfTheModelFromItself:
    """Draws, in the place of probes, the derivatives of KL(full precision ‖ full precision) by the logits."""

    def __init__(self, count: int) -> None:
        """Return the same for all ``count`` vectors."""
        self._count = count

    def draw(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Differentiate in the outputs' precision, as rounding goes."""
        with torch.enable_grad():
            logits = outputs[0].detach().requires_grad_()
            target = logits.detach().softmax(-1)
            loss = functional.kl_div(logits.log_softmax(-1), target, reduction="batchmean")
            (gradient,) = torch.autograd.grad(loss, logits)
        return (_SCALE * gradient.expand(self._count, *gradient.shape),)


def _from_itself(task: BaseTask, count: int, seed: int, first: int = 0) -> OfTheModelFromItself:
    del task, seed, first
    return OfTheModelFromItself(count)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--others", default="digits/val", help="images that the discrepancy is measured on")
    parser.add_argument("--other-images", type=int, default=128)
    parser.add_argument("--images", type=int, nargs="*", default=[8], help="calibration images")
    parser.add_argument("--bits", nargs="*", default=["w4a4", "w3a3"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    session = Session.open(options.model).adapted()
    images = session.calibration_images(options.data, max(options.images, default=8), options.seed).tensor
    _compare(session, images, options.seed)
    others = session.calibration_images(options.others, options.other_images, options.seed).tensor
    for count in options.images:
        for bits in options.bits:
            found = {}
            for name, parts, probes in (
                ("none", ("settings.fpcs.output_weights",), BaseTask.probes),
                ("the code's", (), _from_itself),
                ("the paper's", (), BaseTask.probes),
            ):
                with patch.object(BaseTask, "probes", probes):
                    preset = switched("ptq4vit", parts, "published")
                    found[name] = measure(session, preset, bits, options.data, count, options.seed, others)["kl_nats"]
                print(f"{count} images, {bits}, weights {name}: KL {found[name]:.4f}", flush=True)


def _compare(session: Session, images: Tensor, seed: int) -> None:
    """Print how large both are at the logits, and how they rank the outputs of each site."""
    with torch.no_grad():
        outputs = session.task.outputs_of(session.model.run(images[:IMAGES_AT_ONCE]), session.model.output_names)
        ours = session.task.probes(PROBES, seed).draw(outputs)[0]
        theirs = OfTheModelFromItself(1).draw(outputs)[0] / _SCALE
    print(f"at the logits, root mean square: the code's {_rms(theirs):.1e}, the paper's {_rms(ours):.1e}")
    expected = _weights(session, images, seed, BaseTask.probes)
    found = _weights(session, images, seed, _from_itself)
    ranks = sorted(_spearman(expected[site], found[site]) for site in expected.keys() & found.keys())
    print(f"rank correlation by site: {ranks[0]:.2f} to {ranks[-1]:.2f}, median {median(ranks):.2f}", file=sys.stdout)


def _weights(session: Session, images: Tensor, seed: int, probes: Callable[..., object]) -> dict[str, Tensor]:
    model = session.model
    with patch.object(BaseTask, "probes", probes):
        weighting = OutputWeights(model, torch.split(images, IMAGES_AT_ONCE), session.task, seed)
    sites = {site.name for site in model.traced.sites if site.macs}
    found: dict[str, Tensor] = {}
    for index in reversed(range(len(model.stages))):
        found |= weighting.of_stage(index, [name for name in model.stages[index].sites if name in sites])
    return found


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def _spearman(one: Tensor, other: Tensor) -> float:
    some = torch.randperm(one.numel(), generator=torch.Generator().manual_seed(0))[:_RANKED]
    ranks = torch.stack([each.flatten()[some].argsort().argsort().double() for each in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


if __name__ == "__main__":
    main()
