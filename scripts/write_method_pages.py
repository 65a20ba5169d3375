"""Write the tables of ``docs/methods/``: what each protocol does, the figures of the paper, and what was measured.

python -m scripts.write_method_pages

What is above the mark in a page is written by hand; all below it is written here, from the methods themselves, from
``studies/imagenet`` and from measurements kept in ``docs``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoq.methods import METHODS, BaseMethod
from autoq.methods._base import PROTOCOLS
from autoq.units import format_kl
from benchmarks.protocol_differences import LINES
from benchmarks.result_lines import read_results

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "methods"
MARK = "<!-- What follows is written by scripts/write_method_pages.py. -->"
MEASURED = {"vit_c10": 72.05, "vit_s14_c10": 69.00}
"""Models whose measurements are in ``docs/protocols_MODEL.jsonl``, and their accuracy in full precision in percent."""


def make_page(name: str, page: str) -> str:
    """Return a method's page with its tables as they are now."""
    method = METHODS.lookup(name)
    by_hand = page.partition(MARK)[0].rstrip()
    sections = [_protocols(method), _one_by_one(method), _paper(name), _measured(name)]
    return "\n\n".join([by_hand, MARK, *filter(None, sections)]) + "\n"


def _protocols(method: type[BaseMethod]) -> str:
    if not method.differences:
        return f"## Protocol\n\n{method.images} calibration images. {_describe(method)}"
    lines = [
        "## Protocols",
        "",
        *_introduction(method),
        f"`autoq quantize --differences {method.name}` prints this table.",
        "",
        "| what | published | autoq (default) |",
        "| --- | --- | --- |",
    ]
    for each in method.differences:
        published = f"{each.published}; **not built; here**: {each.here}" if each.here else each.published
        lines.append(f"| {each.subject} | {published} | {each.autoq} |")
    return "\n".join(lines)


def _introduction(method: type[BaseMethod]) -> list[str]:
    if all(each.subject.startswith("detectors") for each in method.differences):
        return [
            f"{method.images} calibration images. {_describe(method)}",
            "",
            "`--protocol published` differs with `--task detection` and `instance-segmentation` alone.",
        ]
    return [
        f"`--protocol published` chooses parameters as the authors' code does ({method.images} calibration images); "
        "`--protocol autoq`, the default, keeps to",
        "strict 2^b codes and has our improvements. Where `published` is not wholly the authors' way, it says what it "
        "does instead.",
    ]


def _one_by_one(method: type[BaseMethod]) -> str:
    """What each difference between the protocols costs alone."""
    lines = [line for line in LINES if line.method == method.name]
    subjects = {line.subject for line in lines} | set(PROTOCOLS)
    entries = read_results(ROOT / "docs" / "protocol_differences.jsonl")
    cells = {
        (each["model"], each["bits"], each["line"]): each
        for each in entries
        if each["method"] == method.name and each["line"] in subjects
    }
    if not cells:
        return ""
    columns = list(dict.fromkeys(key[:2] for key in cells))
    base = next(each["base"] for each in cells.values() if each["line"] not in PROTOCOLS)
    other = "autoq" if base == "published" else "published"
    text = [
        *_how_measured(method.name, base, other, list(cells.values())),
        "",
        f"| as in `{other}` | " + " | ".join(f"{model}, {bits}" for model, bits in columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    effects = {line.subject: line.effect for line in lines}
    for title, subject in [("none", base), *((line.subject, line.subject) for line in lines), ("all", other)]:
        found = [cells.get((*column, subject)) for column in columns]
        if effects.get(subject):
            text.append(f"| {title} | {' | '.join([effects[subject], *[''] * (len(columns) - 1)])} |")
        elif any(found):
            text.append(f"| {title} | {' | '.join('' if one is None else _kl(one['kl_nats']) for one in found)} |")
    return "\n".join(text)


def _how_measured(name: str, base: str, other: str, entries: Sequence[dict[str, Any]]) -> list[str]:
    """Say what the table is of."""
    images = {
        each["model"]: f"{each['images']} images on {each['model']} (KL on {each['other_images']} others)"
        for each in entries
    }
    trained = {each["iterations"] for each in entries} - {None}
    return [
        "## One difference at a time",
        "",
        f"KL in nats of `{base}`, and with one difference after the other as in `{other}`, on images that were not "
        "calibrated on (one run each, seed 0: other seeds move such figures by 5 to 10 %).",
        f"Calibrated on {', on '.join(images.values())}"
        + (f"; {trained.pop()} iterations of each block and MLP." if trained else "."),
        "`python -m benchmarks.protocol_differences --model local-dir:MODEL --data cifar10/calib --others cifar10/val "
        f"--methods {name} --base {base} --results docs/protocol_differences.jsonl`.",
    ]


def _kl(kl_nats: float) -> str:
    """Format a discrepancy with three digits: differences are small."""
    return f"{kl_nats:#.3g}"


def _describe(method: type[BaseMethod]) -> str:
    assert method.__doc__ is not None
    return " ".join(method.__doc__.split("Attributes:")[0].split()).replace("``", "`")


def _paper(name: str) -> str:
    path = ROOT / "studies" / "imagenet" / f"{name}.toml"
    if not path.exists():
        return ""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    widths = list(dict.fromkeys(bits for figures in table["models"].values() for bits in figures))
    lines = [
        "## Figures of the paper",
        "",
        f"Top-1 accuracy on ImageNet in percent, from {table['source']}.",
        "Not measured here: where weights and images are at hand,",
        f"`python -m benchmarks.published_tables studies/imagenet/{name}.toml --data imagenet/train --eval-data "
        "imagenet/val` measures them again.",
        "",
        "| model | " + " | ".join(bits.replace("_", " ") for bits in widths) + " |",
        "| --- |" + " --- |" * len(widths),
    ]
    for model, figures in table["models"].items():
        lines.append(f"| {model} | " + " | ".join(f"{figures[bits]:.2f}" for bits in widths) + " |")
    return "\n".join(lines)


def _measured(name: str) -> str:
    rows = []
    for model, full_precision in MEASURED.items():
        for found in read_results(ROOT / "docs" / f"protocols_{model}.jsonl"):
            if found["method"] == name:
                top1, kl = f"{found['top1_percent']:.2f}", format_kl(found["kl_nats"])
                protocol = f"{found['protocol']} (an earlier version)" if found.get("earlier") else found["protocol"]
                rows.append(f"| {model} | {full_precision:.2f} | {found['bits']} | {protocol} | {top1} | {kl} |")
    if not rows:
        return "## Measured\n\nAt every width, mean and spread over seeds: [methods measured](../methods.md)."
    lines = [
        "## Measured",
        "",
        "Vision transformers trained on CIFAR-10 (2,000 validation images, seed 0, KL in nats on the calibration "
        "images):",
        "`python -m benchmarks.methods --model local-dir:MODEL --data cifar10/calib --eval-data cifar10/val --seeds 1 "
        "--tables Protocols --results docs/protocols_MODEL.jsonl`.",
        "More widths and seeds, with an earlier version: [methods measured](../methods.md).",
        "",
        "| model | full precision | bits | protocol | top-1 | KL |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *rows])


if __name__ == "__main__":
    for path in sorted(PAGES.glob("*.md")):
        path.write_text(make_page(path.stem, path.read_text(encoding="utf-8")), encoding="utf-8")
