"""The parameters of least squared error of an operand's own values."""

from __future__ import annotations

from typing import ClassVar

from autoq.calibration.observers.omse import OmseObserver


class MseObserver(OmseObserver):
    """A search for the parameters of least squared error, by the scheme's own solver; the range is where it starts.

    Solvers that have no search of their own for a range take the best of OMSE's.
    """

    name: ClassVar[str] = "mse"
    searches: ClassVar[bool] = True
