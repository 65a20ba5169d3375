"""The record of a search, as tests of it and of its directory need it."""

from __future__ import annotations

from typing import Any

from autoq.recipe import ModelReference
from autoq.runs.search.record import MeasuredAccuracy, RunRecord, SiteEntry
from autoq.runs.search.settings import SearchSettings
from tests.optimization.synthetic_sites import vit

MODEL = ModelReference(name="vit_digits", weights_sha256="ab" * 32)
FINGERPRINTS = {"images_sha256": "12" * 32, "space_fingerprint": "34" * 32}


def make_record(**changes: Any) -> RunRecord:
    values: dict[str, Any] = {
        "settings": SearchSettings(),
        "versions": {"autoq": "0"},
        "model": MODEL,
        "fingerprints": {**FINGERPRINTS, "bank_fingerprint": "56" * 8},
        "budgets": {"bops": 4},
        "uniform_8_8_cost": 8,
        "full_precision_bops": 32,
        "macs": 1,
        "sites": [
            SiteEntry(name=s.name, op=s.op, macs=s.macs, operands=tuple(o.name for o in s.operands)) for s in vit()
        ],
        "images": 16,
        "accuracy": {"w4a4": MeasuredAccuracy(top1_percent=90.5, top5_percent=99.0, images=540)},
    }
    return RunRecord(**(values | changes))
