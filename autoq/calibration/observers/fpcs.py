"""The parameters of least squared error of a layer's output."""

from __future__ import annotations

from typing import ClassVar

from autoq.calibration.observers.mse import MseObserver


class FpcsObserver(MseObserver):
    """AdaLog's search (FPCS; Wu et al., ECCV 2024) for the layer's output; see ``autoq.calibration.fpcs``.

    Operands by whose layer's output one cannot search are solved as by ``mse``.
    """

    name: ClassVar[str] = "fpcs"
    by_layer_output: ClassVar[bool] = True
