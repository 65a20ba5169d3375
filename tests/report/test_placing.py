"""Placing text on a picture where it covers nothing."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from autoq.report.placing import (
    _DIRECTIONS,
    _box_beside,
    _move,
    box_around,
    boxes_between,
    corners_of,
    count_covered,
    place_label,
)


@pytest.fixture
def axes() -> Axes:
    """An empty square of 400 pixels, over coordinates from 0 to 1."""
    figure = Figure(figsize=(4, 4), dpi=100)
    FigureCanvasAgg(figure)
    return figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1))


def test_the_box_around_a_marker(axes: Axes) -> None:
    box = box_around(axes, 0.5, 0.25, radius=7.2)
    assert box.extents == pytest.approx((190, 90, 210, 110)), "7.2 points are 10 pixels"


def test_boxes_cover_a_line_from_end_to_end() -> None:
    boxes = boxes_between((0, 0), (24, 48))
    assert len(boxes) == 25
    assert all(box.contains(step, 2 * step) for step, box in enumerate(boxes))
    assert not any(box.contains(20, 10) for box in boxes)


def test_a_label_covers_nothing_that_is_taken(axes: Axes) -> None:
    taken = [box_around(axes, 0.5, 0.5)]
    for number in range(4):
        before = list(taken)
        place_label(axes, f"label {number}", 0.5, 0.5, taken, "black")
        assert len(taken) == len(before) + 1
        assert not any(taken[-1].overlaps(box) for box in before), number


def test_boxes_that_are_overlapped_are_counted() -> None:
    generator = np.random.default_rng(0)
    boxes = [Bbox.from_bounds(*place, *size) for place, size in generator.uniform(0, 1, (50, 2, 2))]
    for box in boxes:
        assert count_covered(box, corners_of(boxes)) == sum(box.overlaps(other) for other in boxes)
    assert count_covered(boxes[0], corners_of([])) == 0


@pytest.mark.parametrize("direction", _DIRECTIONS)
@pytest.mark.parametrize("text", ["w4a4", "gyp\n56.7 %"])
def test_a_label_stands_where_it_is_expected(axes: Axes, text: str, direction: tuple[int, int]) -> None:
    label = axes.annotate(text, (0.4, 0.6), xytext=(0, 0), textcoords="offset points", fontsize=9)
    size = label.get_window_extent().size
    _move(label, 18.0, *direction)
    expected = _box_beside((160, 240), size, 18.0 * 100 / 72, *direction)
    assert label.get_window_extent().extents == pytest.approx(expected.extents, abs=1)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_label_stays_inside(axes: Axes, x: float, y: float) -> None:
    taken: list[Bbox] = []
    place_label(axes, "in a corner", x, y, taken, "black")
    (box,) = taken
    assert axes.bbox.x0 <= box.x0 < box.x1 <= axes.bbox.x1
    assert axes.bbox.y0 <= box.y0 < box.y1 <= axes.bbox.y1


def test_a_label_is_nearest_to_its_own_point(axes: Axes) -> None:
    """Beside another marker it would be taken for that one's."""
    points = [(0.5, 0.5), (0.53, 0.56), (0.56, 0.5), (0.47, 0.44)]
    taken = [box_around(axes, x, y) for x, y in points]
    for number, (x, y) in enumerate(points):
        place_label(axes, f"w{number}", x, y, taken, "black", points)
        box = taken[-1]

        def apart(point: tuple[float, float], box: Bbox = box) -> float:
            across, up = axes.transData.transform(point)
            return max(box.x0 - across, across - box.x1, 0) ** 2 + max(box.y0 - up, up - box.y1, 0) ** 2

        assert min(points, key=apart) == (x, y)


def test_a_label_that_is_not_beside_its_point_is_joined_to_it(axes: Axes) -> None:
    around = Bbox.from_extents(170, 170, 230, 230)
    place_label(axes, "far", 0.5, 0.5, [around], "black")
    assert len(axes.texts) == 2, "the label, and the line to it"
    place_label(axes, "near", 0.2, 0.2, [], "black")
    assert len(axes.texts) == 3
