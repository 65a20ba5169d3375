"""autoq.latency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

import autoq
from autoq.api import timing
from autoq.errors import ArgumentTypeError
from autoq.exporters.timing import Timing, time_in_pairs
from tests.api.models import IMAGES, make


def test_recipes_are_timed_against_floating_point(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    module = autoq.quantize(make(), "rtn", IMAGES, bits="w8a8", calib_images=8)
    sizes = {}

    def opened(path: Path, inputs: list[Tensor], threads: int) -> Callable[[], None]:
        (images,) = inputs
        assert (threads, len(images)) in ((3, 2), (3, 5))
        sizes[path.name] = path.stat().st_size
        return lambda: None

    monkeypatch.setattr(timing, "open_in", lambda _: opened)
    found = autoq.latency([module, module], batch=[2, 5], threads=3, rounds=4, images=IMAGES)
    assert list(found.timings) == [2, 5]
    names = ["float", "rtn w8a8", "rtn w8a8 (2)"]
    assert list(found.timings[2]) == list(found.agreement_percent) == names
    assert found.agreement_percent["rtn w8a8"] == 100
    assert sizes["0.onnx"] > sizes["1.onnx"] == sizes["2.onnx"], "weights in floating point, and as codes"
    entries = found.to_json()["timings"]
    assert [(entry["batch"], entry["name"]) for entry in entries] == [(size, name) for size in (2, 5) for name in names]
    assert found.reference == found.to_json()["reference"] == "float"
    with pytest.raises(ArgumentTypeError, match="one quantized model"):
        autoq.latency([])


def test_recipes_are_timed_against_another(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    module = autoq.quantize(make(), "rtn", IMAGES, bits="w8a8", calib_images=8)
    smaller = autoq.quantize(make(), "rtn", IMAGES, bits="w4a4", calib_images=8)
    now, seconds = 0.0, {"0.onnx": 3.0, "1.onnx": 6.0, "2.onnx": 2.0}

    def opened(path: Path, inputs: list[Tensor], threads: int) -> Callable[[], None]:
        del inputs, threads

        def run() -> None:
            nonlocal now
            now += seconds[path.name]

        return run

    def timed(models: dict[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
        return time_in_pairs(models, rounds, lambda: now)

    monkeypatch.setattr(timing, "open_in", lambda _: opened)
    monkeypatch.setattr(timing, "time_in_pairs", timed)
    found = autoq.latency([smaller], reference=module, rounds=2, images=IMAGES)
    assert found.reference == "rtn w8a8"
    assert {name: each.speedup for name, each in found.timings[1].items()} == {
        "rtn w8a8": 1,
        "float": 0.5,
        "rtn w4a4": 1.5,
    }
    assert found.agreement_percent == {"rtn w8a8": 100, "float": None, "rtn w4a4": 100}
