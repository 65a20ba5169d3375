"""Write ``docs/protocols.md``: what the published protocol of each method does, and what autoq does by default.

python scripts/write_protocols.py
"""

from __future__ import annotations

from pathlib import Path

from autoq.methods import METHODS, BaseMethod

PAGE = Path(__file__).parents[1] / "docs" / "protocols.md"
_HEAD = """# Protocols of the published methods

`autoq quantize --method NAME --protocol published` chooses a method's parameters as its authors' code does.
`--protocol autoq`, the default, keeps to strict 2^b codes and has our improvements. `autoq quantize --differences NAME`
prints the same tables. The quantizers are the same in both. Where `published` is not wholly the authors' way, the table
says what it does instead. Written by `scripts/write_protocols.py`.
"""


def make_page() -> str:
    """Return the page."""
    return "\n".join([_HEAD, *(_section(method) for method in METHODS.values())])


def _section(method: type[BaseMethod]) -> str:
    lines = [f"## {method.name}", "", f"{method.source}; {method.images} images.", ""]
    if not method.differences:
        return "\n".join([*lines, f"One protocol. {_describe(method)}", ""])
    lines += ["| what | published | autoq (default) |", "| --- | --- | --- |"]
    for each in method.differences:
        published = f"{each.published}; **not built**: {each.here}" if each.here else each.published
        lines.append(f"| {each.subject} | {published} | {each.autoq} |")
    return "\n".join([*lines, ""])


def _describe(method: type[BaseMethod]) -> str:
    assert method.__doc__ is not None
    return " ".join(method.__doc__.split("Attributes:")[0].split()).replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
