"""How bounds are gathered into cells."""

from __future__ import annotations

import numpy as np

from autoq.calibration.solvers.bound_cells import split_into_cells


def test_cells_split_where_entries_differ_most() -> None:
    points = np.concatenate([np.zeros((50, 2)), np.full((3, 2), 9.0), np.full((5, 2), 1.0)]).astype(np.float32)
    cells = split_into_cells(points, 8)
    assert len(set(cells)) == 3
    assert all(len(set(part)) == 1 for part in (cells[:50], cells[50:53], cells[53:]))
