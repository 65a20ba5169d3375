"""autoq.latency."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

import autoq
from autoq.api import timing
from autoq.errors import ArgumentTypeError
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
    assert sizes["float.onnx"] > sizes["0.onnx"] == sizes["1.onnx"], "weights in floating point, and as codes"
    entries = found.to_json()["timings"]
    assert [(entry["batch"], entry["name"]) for entry in entries] == [(size, name) for size in (2, 5) for name in names]
    with pytest.raises(ArgumentTypeError, match="one quantized model"):
        autoq.latency([])
