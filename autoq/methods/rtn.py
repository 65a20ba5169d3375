"""Rounding to nearest: the baseline of every paper."""

from __future__ import annotations

from typing import ClassVar

from autoq.methods._base import BaseMethod


class Rtn(BaseMethod):
    """Weights symmetric per output channel, activations affine per tensor, ranges from minimum to maximum."""

    name: ClassVar[str] = "rtn"
    source: ClassVar[str] = "round to nearest; see Krishnamoorthi, arXiv:1806.08342"
