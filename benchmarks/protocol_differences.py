"""What each difference between the protocols of a method costs, measured alone.

    python -m benchmarks.protocol_differences --model local-dir:vit_c10 --data cifar10/calib \
        --others cifar10/val --results docs/protocol_differences.jsonl [--methods repq-vit] [--bits w4a4 w3a3]

A line is one protocol of a method (``published``, or ``autoq`` where that is much faster) with the parts of one
difference taken from the other protocol, all else left as it is; two more lines are the protocols themselves. Parts are
settings, by name, and functions of a preset. The discrepancy is from the model in full precision, on images that no
quantizer was calibrated on. Finished lines are kept in ``--results`` and are not measured again;
``scripts/write_method_pages.py`` makes tables of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from autoq.api.applying import apply_recipe, open_beside
from autoq.methods import METHODS, BaseMethod, BitWidths, MethodOptions
from autoq.runs.quantize import QuantizeSettings, quantize
from autoq.runs.session import Session
from autoq.scoring.discrepancy import Discrepancy
from benchmarks.result_lines import append_result, open_results

Protocol = Literal["published", "autoq"]
_SETTINGS = ("settings", "reconstruction_settings", "mlp_settings")
_BATCH = 32
_IMAGE = "image; at 8 bits inputs of other convolutions"


@dataclass(frozen=True)
class Line:
    """Differences that are switched together.

    Attributes:
        method: name of the preset.
        subjects: of the method's differences.
        parts: what is taken from the other protocol: functions and properties of the preset (``image``), or fields of
            its settings (``settings.fpcs.steps``).
        effect: why there is nothing to measure; empty: it is measured.
    """

    method: str
    subjects: tuple[str, ...]
    parts: tuple[str, ...] = ()
    effect: str = ""

    @property
    def subject(self) -> str:
        """The subjects as a table shows them."""
        return "; ".join(self.subjects)


@dataclass(frozen=True)
class Plan:
    """How the lines of a method are measured.

    Attributes:
        base: the protocol that is changed.
        images: to calibrate on.
        iterations: of reconstruction, for methods that have one; None: there is none.
    """

    base: Protocol = "published"
    images: int = 32
    iterations: int | None = None


def switched(method: str, parts: Sequence[str], base: Protocol, iterations: int | None = None) -> BaseMethod:
    """Make the preset of one protocol with parts of the other.

    Args:
        method: its name.
        parts: as in :class:`Line`.
        base: the protocol of all else.
        iterations: of its reconstruction.
    """
    cls = METHODS.lookup(method)
    opposite: Protocol = "autoq" if base == "published" else "published"
    other = cls(MethodOptions(protocol=opposite, iterations=iterations))
    fields = {name: [part.split(".")[1:] for part in parts if part.startswith(f"{name}.")] for name in _SETTINGS}
    whole = [part for part in parts if "." not in part]

    def mixed(name: str) -> Any:
        def settings(self: BaseMethod, *arguments: Any) -> Any:
            own = getattr(cls, name)(self, *arguments)
            theirs = getattr(other, name)(*arguments)
            for path in fields[name]:
                own = _with_field(own, theirs, path)
            return own

        return settings

    def taken(name: str) -> Any:
        if isinstance(getattr(cls, name), property):
            return property(lambda _: getattr(other, name))
        return lambda _, *arguments, **keywords: getattr(other, name)(*arguments, **keywords)

    functions = {name: mixed(name) for name in _SETTINGS if fields[name]} | {name: taken(name) for name in whole}
    changed: type[BaseMethod] = type(cls.__name__, (cls,), functions)
    return changed(MethodOptions(protocol=base, iterations=iterations))


def _with_field(own: Any, theirs: Any, path: Sequence[str]) -> Any:
    """Replace a field of nested settings."""
    name, *rest = path
    value = getattr(theirs, name)
    return dataclasses.replace(own, **{name: _with_field(getattr(own, name), value, rest) if rest else value})


def measure(
    session: Session, method: BaseMethod, bits: str, data: str, images: int, seed: int, others: Tensor
) -> dict[str, float]:
    """Quantize a model, and return its discrepancy from full precision on other images, and the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        settings = QuantizeSettings(data, folder, images, seed)
        recipe = quantize(session, method, BitWidths.parse(bits), settings).located(Path(folder))
        seconds = time.perf_counter() - started
        module = apply_recipe(open_beside(session, recipe), recipe, data)
    session.model.remove_()
    discrepancy = Discrepancy(session.task)
    with torch.inference_mode():
        for batch in torch.split(others, _BATCH):
            (expected,) = session.model.run(batch)
            discrepancy.add((expected,), (module(batch),))
    score = discrepancy.score()
    assert recipe.score is not None
    return {
        "kl_nats": score.kl_nats,
        "calibration_kl_nats": recipe.score.kl_nats,
        "seconds": round(seconds, 1),
    }


LINES: tuple[Line, ...] = (
    Line("repq-vit", ("channel ranges for the factors",), ("settings.norm_observer",)),
    Line(
        "repq-vit",
        ("scale of what LayerNorms feed", "zero point of what LayerNorms feed", "inputs while calibrating"),
        ("settings.inputs",),
    ),
    Line("repq-vit", ("zero points",), ("settings.include_zero",)),
    Line("repq-vit", ("values that scales are chosen on",), ("settings.sample_elements",)),
    Line("repq-vit", ("lowest level after softmax",), ("overflow",)),
    Line("adalog", (_IMAGE,), ("image",)),
    Line("adalog", ("LayerNorms that are rescaled",), ("rescaled_norms",), "none where both widths are equal"),
    Line("adalog", ("channel ranges for the factors",), ("settings.norm_observer",)),
    Line("adalog", ("lowest level of logarithms",), ("overflow",)),
    Line("adalog", ("bases after GELU",), ("settings.fpcs.log_bases",)),
    Line("adalog", ("steps of FPCS",), ("settings.fpcs.steps",)),
    Line("adalog", ("spans of the first grid",), ("settings.include_zero",)),
    Line("adalog", ("order",), ("settings.fpcs.start",)),
    Line("adalog", ("rounds",), ("settings.fpcs.rounds",)),
    Line(
        "adalog",
        ("vectors that candidates are compared on",),
        ("settings.fpcs.tokens", "settings.fpcs.screening"),
    ),
    Line("adalog", ("result of a search",), ("settings.fpcs.result",)),
    Line("fq-vit", ("percentile",), ("settings.percentile",), "none with the default observer, `min_max`"),
    Line("fq-vit", ("lowest level of Log-Int-Softmax", "step of the integer exponential"), ("overflow",)),
    Line("fq-vit", ("weights",), ("settings.weight_observer",), "none with the default observer, `min_max`"),
    Line(
        "fq-vit",
        ("LayerNorm inputs with PTF", "ranges by squared error (omse)"),
        ("settings.factor_observer", "settings.sample_last_batch", "settings.sample_elements"),
    ),
    Line(
        "fq-vit",
        ("batches, which moving averages depend on",),
        ("settings.batch_images",),
        "none with the default observer, `min_max`, but on which images are the last",
    ),
    Line("fq-vit", ("queries, keys, values",), ("settings.shares_ranges",)),
    Line(
        "fq-vit",
        ("outputs of projections and MLPs, patch and position embedding, residual sums",),
        ("quantizes_sums",),
    ),
    Line("fq-vit", ("output of the classifier",), ("quantizes_outputs",)),
    Line("ptq4vit", ("image",), ("image",)),
    Line("ptq4vit", ("weights of the patch embedding",), ("convolution_weight",)),
    Line("ptq4vit", ("queries, keys, values",), ("attention_operand",)),
    Line("ptq4vit", ("weights of qkv",), ("has_qkv_scales", "settings.fpcs.tied_rows")),
    Line(
        "ptq4vit",
        ("candidate scales",),
        ("settings.fpcs.candidates", "settings.fpcs.steps", "settings.fpcs.spans"),
    ),
    Line("ptq4vit", ("twin ranges after softmax", "twin ranges after GELU"), ("settings.fpcs.twin_scales",)),
    Line("ptq4vit", ("order",), ("settings.fpcs.start",)),
    Line("ptq4vit", ("rounds",), ("settings.fpcs.rounds",)),
    Line(
        "ptq4vit",
        ("vectors that candidates are compared on",),
        ("settings.fpcs.tokens", "settings.fpcs.screening"),
    ),
    Line("ptq4vit", ("result of a search",), ("settings.fpcs.result",)),
    Line("ptq4vit", ("formula of values in two ranges",), ("twin_scheme",)),
    Line("ptq4vit", ("errors of a layer's output",), ("settings.fpcs.output_weights",)),
    Line("aphq-vit", ("iterations of a block, of an MLP",), (), "not measured: hours for each"),
    Line(
        "aphq-vit",
        ("rate of MLPs, what they are trained on",),
        ("mlp_settings.learning_rate", "mlp_settings.inputs"),
    ),
    Line("aphq-vit", ("clamp of MLPs",), ("mlp_settings.clamp_quantile",)),
    Line("aphq-vit", ("attention maps",), ("attention_map",)),
    Line(
        "aphq-vit",
        ("starting point", "vectors that candidates are compared on"),
        ("settings.observer", "settings.fpcs", "settings.include_zero"),
    ),
    Line("aphq-vit", (_IMAGE,), ("image",)),
    Line("aphq-vit", ("LayerNorms that are rescaled",), ("rescaled_norms",), "none where both widths are equal"),
    Line("aphq-vit", ("channel ranges for the factors",), ("settings.norm_observer",)),
    Line("aphq-vit", ("norm before an MLP",), ("mlp_settings.train_norm",)),
    Line(
        "aphq-vit",
        (
            "loss of a block",
            "rate of scales",
            "blocks that training made worse",
            "images of a batch",
            "gradient of scales",
        ),
        (
            "reconstruction_settings.protocol",
            "reconstruction_settings.regularization",
            "reconstruction_settings.weight_rate",
            "reconstruction_settings.scale_rate",
        ),
    ),
    Line("aphq-vit", ("perturbation",), (), "not built: rounding error"),
)
"""What is switched for each difference that a method names."""


def lines_of(method: str, base: Protocol = "published") -> Iterator[Line]:
    """Yield the lines of a method: the protocol as it is, and what is measured of the differences.

    Where ``autoq`` is what parts are switched in, ``published`` is left out: it would take longer than all the others.
    """
    yield Line(method, (base,))
    if base == "published":
        yield Line(method, ("autoq",))
    for line in LINES:
        if line.method == method and not line.effect:
            yield line


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, a line at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_digits")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--others", default="digits/val", help="images that the discrepancy is measured on")
    parser.add_argument("--other-images", type=int, default=128)
    parser.add_argument("--methods", nargs="*", default=list(dict.fromkeys(line.method for line in LINES)))
    parser.add_argument("--bits", nargs="*", default=["w4a4", "w3a3"])
    parser.add_argument("--base", choices=("published", "autoq"), default="published")
    parser.add_argument("--lines", nargs="*", default=["*"], help="measure these lines alone: globs over differences")
    parser.add_argument("--images", type=int, default=32, help="calibration images")
    parser.add_argument("--iterations", type=int, help="of reconstruction")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args(arguments)
    session = Session.open(options.model)
    session = session.adapted()
    others = session.calibration_images(options.others, options.other_images, options.seed).tensor
    known = {_key(entry) for entry in open_results(options.results)}
    for method in options.methods:
        for bits in options.bits:
            for line in lines_of(method, options.base):
                entry = _describe(options, line, bits)
                if _key(entry) in known or not any(fnmatchcase(line.subject, glob) for glob in options.lines):
                    continue
                preset = switched(method, line.parts, entry["base"], options.iterations)
                found = measure(session, preset, bits, options.data, options.images, options.seed, others)
                append_result(options.results, entry | found | {"other_images": len(others)})
                print(entry | found, file=sys.stderr, flush=True)


def _describe(options: argparse.Namespace, line: Line, bits: str) -> dict[str, Any]:
    """Say what is measured, without the result."""
    return {
        "model": Path(options.model.removeprefix("local-dir:")).name,
        "method": line.method,
        "bits": bits,
        "base": line.subject if line.subject in ("published", "autoq") else options.base,
        "line": line.subject,
        "images": options.images,
        "iterations": options.iterations,
        "seed": options.seed,
    }


def _key(entry: dict[str, Any]) -> str:
    names = ("model", "method", "bits", "base", "line", "images", "iterations", "seed")
    return json.dumps([entry[name] for name in names])


if __name__ == "__main__":
    main()
