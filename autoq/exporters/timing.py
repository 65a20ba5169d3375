"""Time exported ONNX files against one another, in pairs: a shared machine slows all of a round down."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from autoq.errors import ExportError

FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Instructions that decide how fast integers are, as Linux names them."""
_WARM_UP = 3

Run = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Time of one model, in rounds in which every model ran once.

    Attributes:
        milliseconds: median of a batch.
        speedup: median over rounds of the reference's time in a round, divided by this model's.
        low: a quarter of the rounds have a smaller one.
        high: a quarter of the rounds have a larger one.
        rounds: that were run.
    """

    milliseconds: float
    speedup: float
    low: float
    high: float
    rounds: int

    def to_json(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


def time_in_pairs(
    models: Mapping[str, Run], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Time models side by side, each once a round, in an order that turns by one from round to round.

    Args:
        models: what runs a batch, by name; the first is the reference.
        rounds: how many, at least 2.
        clock: gives seconds.

    >>> ticks = iter(range(1000))
    >>> found = time_in_pairs({"float": lambda: None, "fast": lambda: None}, 4, lambda: float(next(ticks)))
    >>> found["fast"].speedup
    1.0
    """
    names = list(models)
    for run in models.values():
        for _ in range(_WARM_UP):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            started = clock()
            models[name]()
            seconds[name].append(clock() - started)
    return {name: _timing(seconds[names[0]], seconds[name]) for name in names}


def _timing(reference: Sequence[float], own: Sequence[float]) -> Timing:
    ratios = [one / other for one, other in zip(reference, own, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Timing(1000 * statistics.median(own), middle, low, high, len(own))


def open_onnxruntime(path: Path, inputs: Sequence[Tensor], threads: int) -> Run:
    """Return what runs a file on its inputs in onnxruntime, with its default optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    given = {name: np.ascontiguousarray(each.numpy()) for name, each in zip(names, inputs, strict=True)}
    return lambda: session.run(None, given)


def open_openvino(path: Path, inputs: Sequence[Tensor], threads: int) -> Run:
    """Return what runs a file on its inputs in openvino, on the processor, in float32 where it is not quantized."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", settings)
    request, given = model.create_infer_request(), [np.ascontiguousarray(each.numpy()) for each in inputs]
    return lambda: request.infer(given, share_inputs=True)


Opener = Callable[[Path, Sequence[Tensor], int], Run]
"""Opens a file to be run on these inputs, with so many threads."""
RUNTIMES: Mapping[str, Opener] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
}
"""What opens a file, by the name of the package."""


def open_in(runtime: str) -> Opener:
    """Return what opens a file in a runtime.

    Raises:
        ExportError: there is no such runtime, or it is not installed.
    """
    if runtime not in RUNTIMES:
        raise ExportError(f"unknown runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
    if find_spec(runtime) is None:
        extra = {"onnxruntime": "onnx"}.get(runtime, runtime)
        raise ExportError(f"{runtime} is not installed: pip install 'autoq[{extra}]'")
    return RUNTIMES[runtime]


def describe_machine(runtime: str, threads: int) -> str:
    """Say on what is timed: processor, the instructions that matter, threads, the runtime's version."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = {key.strip(): value for key, _, value in (line.partition(": ") for line in lines)}
    flags = (found.get("flags") or found.get("Features") or "").split()
    shown = ", ".join(feature for feature in FEATURES if feature in flags) or "instructions unknown"
    processor = found.get("model name", platform.machine())
    return f"{processor} ({shown}), threads: {threads}, {runtime} {version(runtime)}"
