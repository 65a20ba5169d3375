"""The fenced blocks of a document, and what becomes of each.

``sh``       commands, which have to succeed
``console``  ``$ command`` lines, each with what it prints; ``...`` stands for anything
``python``   statements; the blocks of a page are one program
others       data (``toml``, ``json``, …), or something to look at (``text``, ``mermaid``)

A block whose title is a file name is written to that file. One whose title begins with ``not run by the tests: `` is
not run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RUN = ("sh", "console", "python")
DATA = ("toml", "json", "csv")
SHOWN = ("text", "mermaid", "bibtex")
NOT_RUN = "not run by the tests: "
_FENCE = re.compile(r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^```$', re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, what is written above it, its lines and the number of the first one."""

    language: str
    title: str
    code: str
    line: int

    @property
    def reason(self) -> str | None:
        """Why it is not run; None: it is."""
        return self.title.removeprefix(NOT_RUN) if self.title.startswith(NOT_RUN) else None

    @property
    def file(self) -> str | None:
        """The file that it is written to."""
        return self.title if self.title and self.reason is None else None


def blocks_of(text: str) -> list[Block]:
    """The fenced blocks of a document, in order."""
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(match["language"], match["title"] or "", match["code"], line))
    return found


def commands_of(code: str) -> list[str]:
    """The commands of a ``sh`` block, one a line, continuation lines joined."""
    lines = code.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def exchanges_of(code: str) -> list[tuple[str, str]]:
    """The commands of a ``console`` block, each with what it prints."""
    parts = re.split(r"^\$ ", code.replace("\\\n", " "), flags=re.M)
    assert not parts[0].strip(), f"a console block begins with a command: {parts[0]}"
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts[1:])]


def matches(expected: str, output: str) -> bool:
    """Whether an output is what a document shows, however lines are broken."""
    pattern = " ".join(expected.split())
    return re.fullmatch(re.escape(pattern).replace(r"\.\.\.", ".*"), " ".join(output.split())) is not None
