"""Write the tables of ``docs/methods/``: what each protocol does, the figures of the paper, and what was measured.

python scripts/write_method_pages.py

What is above the mark in a page is written by hand; all below it is written here, from the methods themselves, from
``studies/imagenet`` and from measurements kept in ``docs``.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from autoq.methods import METHODS, BaseMethod
from autoq.units import format_kl

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "methods"
MARK = "<!-- What follows is written by scripts/write_method_pages.py. -->"
MEASURED = {"vit_c10": 72.05, "vit_s14_c10": 69.00}
"""Models whose measurements are in ``docs/protocols_MODEL.jsonl``, and their accuracy in full precision in percent."""


def make_page(name: str, page: str) -> str:
    """Return a method's page with its tables as they are now."""
    method = METHODS.lookup(name)
    by_hand = page.partition(MARK)[0].rstrip()
    sections = [_protocols(method), _paper(name), _measured(name)]
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
        published = f"{each.published}; **not built**: {each.here}" if each.here else each.published
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
        "strict 2^b codes and has our improvements. The quantizers are the same. Where `published` is not wholly the "
        "authors' way, it says what it does instead.",
    ]


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
        for line in (ROOT / "docs" / f"protocols_{model}.jsonl").read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            if found["method"] == name:
                top1, kl = f"{found['top1_percent']:.2f}", format_kl(found["kl_nats"])
                rows.append(
                    f"| {model} | {full_precision:.2f} | {found['bits']} | {found['protocol']} | {top1} | {kl} |"
                )
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
