"""The front of recipes that nothing beats in both BOPs and discrepancy, and figures drawn from it.

Points are (bops, kl_nats), both minimised. KL is compared as it is and measured on a log10 scale, floored at
``KL_FLOOR_NATS`` so that a perfect score stays a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]
"""BOPs per image and mean KL in nats."""

KL_FLOOR_NATS = 1e-9
"""KL at and below which recipes count as equally good on the log scale: less than any quantizer at 8 bits leaves."""


def log10_kl(kl_nats: float) -> float:
    """Take the log10 of a KL, floored at ``KL_FLOOR_NATS`` (rounding may make a mean KL slightly negative)."""
    return math.log10(max(kl_nats, KL_FLOOR_NATS))


def non_dominated(points: Sequence[Point]) -> list[int]:
    """Find the points that no other point beats or equals in both objectives: their indices by ascending BOPs.

    Of equal points the first is kept. Points with a NaN or an infinity are never on the front. O(n log n).

    >>> non_dominated([(3e9, 0.1), (1e9, 0.5), (2e9, 0.7)])
    [1, 0]
    """
    finite = [i for i, (bops, kl) in enumerate(points) if math.isfinite(bops) and math.isfinite(kl)]
    front: list[int] = []
    least = math.inf
    for index in sorted(finite, key=lambda i: (*points[i], i)):
        if points[index][1] < least:
            least = points[index][1]
            front.append(index)
    return front


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Measure the area of (BOPs, log10 KL) that ``points`` dominate below ``reference``, in BOPs × decades.

    Args:
        points: any points; dominated ones and those beyond the reference add nothing.
        reference: BOPs of uniform 8/8 and KL of the worst uniform point in the space; state it beside the figure.

    >>> hypervolume([(1.0, 0.01), (2.0, 0.001)], reference=(3.0, 0.1))
    3.0
    """
    limit, ceiling = reference[0], log10_kl(reference[1])
    area = 0.0
    for index in non_dominated(points):
        bops, level = points[index][0], log10_kl(points[index][1])
        if bops < limit and level < ceiling:
            area += (limit - bops) * (ceiling - level)
            ceiling = level
    return area


def knee(points: Sequence[Point]) -> int:
    """Find the index of the point after which more BOPs buy less.

    The front is scaled to the unit square in (BOPs, log10 KL); the knee is its point farthest below the straight line
    from the cheapest to the most faithful one. Where none lies below that line (one or two points, a concave front) it
    is the most faithful point.

    Raises:
        ValueError: there is no finite point.

    >>> knee([(1.0, 1.0), (2.0, 0.01), (10.0, 0.001)])
    1
    """
    front = non_dominated(points)
    if not front:
        raise ValueError("a front without points has no knee")
    cheap, faithful = points[front[0]], points[front[-1]]
    width = faithful[0] - cheap[0]
    height = log10_kl(cheap[1]) - log10_kl(faithful[1])
    if width <= 0 or height <= 0:
        return front[-1]

    def below_chord(index: int) -> float:
        bops, kl = points[index]
        return 1 - (bops - cheap[0]) / width - (log10_kl(kl) - log10_kl(faithful[1])) / height

    best = max(front, key=below_chord)
    # Interior points must beat the ends, whose distance is zero but for rounding.
    return best if below_chord(best) > 1e-9 else front[-1]


def best_within(points: Sequence[Point], budget: float) -> int | None:
    """Find the index of the point with the least KL at no more than ``budget``; None if all cost more.

    Of equal KL the cheaper, then the first.

    >>> best_within([(3e9, 0.1), (1e9, 0.5)], budget=2e9)
    1
    """
    affordable = [index for index in non_dominated(points) if points[index][0] <= budget]
    return affordable[-1] if affordable else None
