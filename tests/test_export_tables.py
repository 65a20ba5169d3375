"""The page of what export formats make of recipes, and the script that measures it."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from benchmarks import exports
from benchmarks.exports_page import page

DOCS = Path(__file__).parents[1] / "docs"


def test_the_page_is_what_the_script_writes() -> None:
    lines = (DOCS / "export_tables.jsonl").read_text(encoding="utf-8").splitlines()
    written = (DOCS / "export_tables.md").read_text(encoding="utf-8")
    command = "run python -m benchmarks.exports_page docs/export_tables.jsonl > docs/export_tables.md"
    assert written == page([json.loads(line) for line in lines]), command


@pytest.mark.slow
def test_a_format_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao")
    results = tmp_path / "results.jsonl"
    model = f"local-dir:{files('autoq.models') / 'vit_digits'}"  # timm builds it, without autoq
    options = {"model": model, "calib-data": "digits", "data": "digits", "images": 16, "calib-images": 8}
    options |= {"bits": "w4a4", "formats": "torchao", "results": results, "runs": tmp_path / "runs"}
    given = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
    monkeypatch.setattr("sys.argv", ["exports", *given, "--spaces"])
    exports.main()
    (entry,) = map(json.loads, results.read_text().splitlines())
    assert (entry["model"], entry["recipe"], entry["format"]) == (model, "`rtn` w4a4", "torchao")
    assert (entry["images"], entry["agreement_percent"]) == (16, 100)
    assert entry["mean_difference"] < 1e-5 < entry["mean_magnitude"]
    assert entry["refused"]["torchao's file has weights alone"] > 1
    monkeypatch.setattr(exports, "measured", lambda *_: pytest.fail("it is known"))
    exports.main()
