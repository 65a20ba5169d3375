"""The page of protocols says what the methods do."""

from __future__ import annotations

import runpy
from pathlib import Path


def test_the_page_is_what_the_script_writes() -> None:
    script = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "write_protocols.py"))
    assert script["PAGE"].read_text(encoding="utf-8") == script["make_page"](), "run python scripts/write_protocols.py"
