"""Write results of ``benchmarks.exports`` as a page.

python -m benchmarks.exports_page docs/export_tables.jsonl > docs/export_tables.md
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.result_lines import read_results

Entry = dict[str, Any]
HEAD = """# Export formats, measured

`python -m benchmarks.exports` with `--results docs/export_tables.jsonl` (its docstring has the commands), written here
by `python -m benchmarks.exports_page docs/export_tables.jsonl`. {versions}; {dates}.

Each file was read by a fresh process, in which autoq cannot be imported but for its own formats (`recipe`, `bundle`,
`torch`), and compared with autoq's model over images that calibrated nothing (models with random weights: over other
images of the same folder). `aimet` is compared by the exporter, on calibration images. What a format cannot hold is
refused; with `--allow-float` it is left in floating point, in the file and in the model that it is compared with.
*Plain* operands have the same values, but are ordinary operators and no integers. *Processor* is the time that writing
takes, without tracing the model and without the check. Recipes come of short searches (12 to 30 trials): what is
measured is the file, not the recipe. Since then bundles are compressed (`rtn` w4a4 of
`vit_s14_c10`: 21.9 MB to 9.7).
"""
REASONS = {
    "torchao's file has weights alone": "activations",
    "it is of no linear layer": "products, convolutions",
    "it is behind a reshape of a tensor that others read, where AIMET has no quantizer": "behind a reshape",
    "its zero point is not 0, and FINN has none: use space fpga_2-8, or symmetric = true": "zero point",
    "stored as codes: its input has no integers": "weight of a plain input",
}
"""What exporters say, in words that fit a table."""


def main() -> None:
    """Read results, print the page."""
    sys.stdout.write(page(read_results(Path(sys.argv[1]))))


def page(entries: list[Entry]) -> str:
    """Return the page, models and recipes in the order in which they were measured first."""
    versions = ", ".join(sorted({f"{name} {number}" for each in entries for name, number in each["versions"].items()}))
    dates = " and ".join(sorted({each["date"] for each in entries}))
    sections = [HEAD.format(versions=versions, dates=dates)]
    for model in dict.fromkeys(each["model"] for each in entries):
        of_model = [each for each in entries if each["model"] == model]
        weights = "" if of_model[0]["pretrained"] else ", random weights"
        size = of_model[0]["float_megabytes"]
        sections.append(f"## {model.rpartition(':')[2]}{weights}\n\n{size:.2f} MB in float32.\n")
        names = dict.fromkeys(each["recipe"] for each in of_model)
        sections += [table([each for each in of_model if each["recipe"] == name]) for name in names]
    return "\n".join(sections)


def table(entries: list[Entry]) -> str:
    """Return the table of one recipe."""
    schemes = ", ".join(f"{count} {scheme}" for scheme, count in entries[0]["schemes"].items())
    name = entries[0]["recipe"]
    lines = [
        f"### {name[0].upper()}{name[1:]}\n\nOperands: {schemes}.\n",
        "| format | top-1 agrees | mean difference of a logit | of mean size | images | MB | processor, s | "
        "refused, or left in floating point | plain |",
        "| --- " * 9 + "|",
    ]
    return "\n".join([*lines, *map(_line, entries)]) + "\n"


def _line(entry: Entry) -> str:
    return (
        f"| `{entry['format']}` | {entry['agreement_percent']:.1f} % | {entry['mean_difference']:.1g} | "
        f"{entry['mean_magnitude']:.2g} | {entry['images']} | {entry['megabytes']:.2f} | "
        f"{entry['processor_seconds']:.1f} | {_counted(entry['refused'])} | {_counted(entry['plain'])} |"
    )


def _counted(reasons: dict[str, int]) -> str:
    return "; ".join(f"{count} ({REASONS.get(reason, reason)})" for reason, count in reasons.items())


if __name__ == "__main__":
    main()
