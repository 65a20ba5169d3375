"""Timing in pairs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autoq.errors import ExportError
from autoq.exporters.timing import describe_machine, open_in, time_in_pairs


class Machine:
    """A clock that models move on, more slowly in every second round."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, ""

    def model(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            slow = 3.0 if (len(self.order) // 2) % 2 else 1.0
            self.order += name
            self.now += seconds * slow

        return run


def test_ratios_are_of_one_round() -> None:
    machine = Machine()
    models = {"float": machine.model("f", 0.004), "fast": machine.model("q", 0.002)}
    found = time_in_pairs(models, 6, lambda: machine.now)
    assert machine.order == "fffqqq" + "fqqf" * 3, "warmed up, then in an order that turns"
    assert found["float"].speedup == 1
    assert (found["fast"].low, found["fast"].speedup, found["fast"].high) == pytest.approx((2, 2, 2))
    assert found["float"].milliseconds == pytest.approx(8), "the median of 4 and 12"
    assert found["fast"].rounds == 6


def test_the_spread_is_of_quarters() -> None:
    clock = iter([0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0, 5.0, 5.0, 6.0, 6.0, 10.0, 10.0, 11.0, 11.0, 12.0])
    found = time_in_pairs({"one": lambda: None, "other": lambda: None}, 4, lambda: next(clock))
    # Rounds: (1, 1), (other 2, one 1), (1, 4), (other 1, one 1).
    assert (found["other"].low, found["other"].speedup, found["other"].high) == pytest.approx((0.4375, 0.75, 1))


def test_runtimes_are_named() -> None:
    with pytest.raises(ExportError, match="unknown runtime 'tensorrt'; there are onnxruntime, openvino"):
        open_in("tensorrt")


def test_a_missing_runtime_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoq.exporters.timing.find_spec", lambda _: None)
    with pytest.raises(ExportError, match=r"pip install 'autoq\[onnx\]'"):
        open_in("onnxruntime")
    with pytest.raises(ExportError, match=r"pip install 'autoq\[openvino\]'"):
        open_in("openvino")


def test_the_machine_is_described() -> None:
    pytest.importorskip("onnxruntime")
    text = describe_machine("onnxruntime", 2)
    assert "threads: 2, onnxruntime " in text
