"""The pages whose blocks are run, for the tests and for ``benchmarks/documentation.py``."""

from __future__ import annotations

from pathlib import Path

import autoq
from tests.documentation.blocks import RUN, blocks_of

ROOT = Path(autoq.__file__).parent.parent
START = ROOT / "docs/start.md"
"""The first page; whoever reads another one has followed it, and goes on in the folder that it leaves."""
ALL = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TO_RUN = [
    path
    for path in ALL
    if path != START and any(b.language in RUN and b.reason is None for b in blocks_of(path.read_text("utf-8")))
]
"""Pages with something to run, beside the first one."""
