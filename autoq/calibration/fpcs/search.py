"""AdaLog's Fast Progressive Combining Search of two quantizer parameters at once.

Wu et al., "AdaLog: Post-Training Quantization for Vision Transformers with Adaptive Logarithm Quantizer", ECCV 2024,
§3.3: evaluate n combinations of a coarse grid, keep the k best, put n/k finer neighbours around each, shrink the step,
and repeat. What is minimised is a callable; nothing here knows a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.quantizers._affine import symmetric_zero_point

Loss = Callable[[Tensor, Tensor], Tensor]
"""From n candidates a row (first and second parameter, each of shape (rows, n)) to their errors, of the same shape."""
Pair = tuple[Tensor, Tensor]
_MOST_ZERO_POINTS = 16
_LEAST_SCALES = 4
"""With which a base is combined, however many bases there are."""
_COARSELY_KEPT = 6
"""Of the first combinations the coarse loss leaves so many times those that are kept. On ViTs' MLPs at 3 and 4 bits the
32 best of 512 were among its best 35 to 176."""
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Axis:
    """How one parameter of a kept combination is refined.

    Attributes:
        step: distance between neighbours in the first grid, of shape (rows, 1).
        neighbours: values put within ± half a step of a kept one; 1 keeps it as it is.
        least: bound.
    """

    step: Tensor
    neighbours: int
    least: float = 0.0

    def around(self, kept: Tensor, level: int) -> Tensor:
        """Place neighbours around values (rows, k) kept in step ``level`` (from 0), of shape (rows, k, neighbours)."""
        if self.neighbours == 1:
            return kept.unsqueeze(2)
        offsets = torch.linspace(-0.5, 0.5, self.neighbours, dtype=kept.dtype, device=kept.device)
        step = self.step / (self.neighbours - 0.5) ** level
        return (kept.unsqueeze(2) + offsets * step.unsqueeze(2)).clamp(min=self.least)


@dataclass(frozen=True)
class Grid:
    """The first combinations, and how to refine them.

    Attributes:
        first: first parameter of each combination, of shape (rows, n).
        second: second parameter, likewise.
        first_axis: refines the first.
        second_axis: refines the second.
    """

    first: Tensor
    second: Tensor
    first_axis: Axis
    second_axis: Axis

    def around(self, first: Tensor, second: Tensor, level: int) -> Pair:
        """Place neighbours around combinations (rows, k) kept in step ``level``, of shape (rows, k · neighbours)."""
        a, b = self.first_axis.around(first, level), self.second_axis.around(second, level)
        shape = (*a.shape, b.shape[2])
        return a.unsqueeze(3).expand(shape).flatten(1), b.unsqueeze(2).expand(shape).flatten(1)


@dataclass(frozen=True)
class Problem:
    """What the progressive search is given.

    Attributes:
        grid: first combinations.
        incumbent: combination of each row that is to be beaten, or None.
        loss: to minimise.
        screen: a cheaper loss that ranks candidates, or None.
        coarse: one that is cheaper still and chooses among the first combinations, or None.
    """

    grid: Grid
    incumbent: Pair | None
    loss: Loss
    screen: Loss | None
    coarse: Loss | None


def affine_grid(
    low: Pair,
    high: Pair,
    bits: int,
    settings: FpcsSettings,
    *,
    symmetric: bool,
    include_zero: bool = True,
    all_zero_points: bool = False,
) -> Grid:
    """Combine scales from a quantile's span to the whole span with a window of zero points.

    Args:
        low: lower quantile (1 − q) and least value, each of shape (rows,).
        high: upper quantile (q) and greatest value, each of shape (rows,).
        bits: code width.
        settings: number of candidates, and where zero points are looked for.
        symmetric: the zero point is fixed, and both sides of zero span what the wider one needs.
        include_zero: spans are widened to zero.
        all_zero_points: up to 16 codes, each is a candidate, and not only the middle half; the authors' code does so
            for inputs of linear layers.
    """
    if symmetric:
        narrow, wide = (2 * torch.maximum(least.abs(), most.abs()) for least, most in zip(low, high, strict=True))
        zero_points = torch.full((len(narrow), 1), symmetric_zero_point(bits), device=narrow.device)
    else:
        ends = list(zip(low, high, strict=True))
        if include_zero:  # a quantizer with a code for zero spans zero too
            ends = [(least.clamp(max=0), most.clamp(min=0)) for least, most in ends]
        narrow, wide = (most - least for least, most in ends)
        most_zero_points = min(_MOST_ZERO_POINTS, 2**bits if all_zero_points else 2 ** (bits - 1))
        zero_points = _zero_points(low[1], high[1], bits, most_zero_points, settings)
    count = max(2, settings.candidates // zero_points.shape[1])
    largest = torch.finfo(torch.float32).max / 2 ** (bits + 1)
    if settings.spans is not None:
        narrow, wide = (share * wide for share in settings.spans)
    narrow, wide = ((span.unsqueeze(1) / (2**bits - 1)).clamp(_TINY, largest) for span in (narrow, wide))
    scales = narrow + (wide - narrow) * torch.linspace(0, 1, count, device=wide.device)
    neighbours = max(2, settings.candidates // settings.kept)
    step = (wide - narrow) / (count - 1)
    fixed = Axis(torch.zeros_like(step), 1)
    return _combine(scales, zero_points, Axis(step, neighbours, least=_TINY), fixed)


def log_grid(narrow: float, wide: float, bases: Tensor, settings: FpcsSettings) -> Grid:
    """Combine logarithm bases with scales, in one row, as used after GELU; scales are refined, bases are not.

    Args:
        narrow: least scale.
        wide: greatest scale.
        bases: numerators of the bases to choose from, of shape (bases,).
        settings: number of candidates.
    """
    kept = settings.log_kept if len(bases) > 1 else settings.kept
    count = max(_LEAST_SCALES, settings.candidates // len(bases))
    narrow, wide = max(narrow, _TINY), max(wide, _TINY)
    scales = narrow + (wide - narrow) * torch.linspace(0, 1, count, device=bases.device)  # (scales,)
    step = torch.full((1, 1), (wide - narrow) / (count - 1), device=bases.device)
    scale_axis = Axis(step, max(2, settings.candidates // kept), least=_TINY)
    return _combine(bases.float().unsqueeze(0), scales.unsqueeze(0), fixed_axis(bases.device), scale_axis)


def base_grid(scale: float, bases: Sequence[int], device: torch.device) -> Grid:
    """Combine every base with one scale, in one row: after softmax the scale is one, and one step of search enough."""
    first = torch.tensor([bases], dtype=torch.float32, device=device)  # (1, bases)
    return _combine(first, torch.full((1, 1), scale, device=device), fixed_axis(device), fixed_axis(device))


def best_bases(
    loss: Loss, scale: float, bases: Sequence[int], count: int, device: torch.device, *, coarse: Loss | None = None
) -> Tensor:
    """Choose the bases of least error at one scale, of shape (count,), the best first.

    The authors' code starts so after GELU. Neighbouring bases put their levels elsewhere, so that errors jump from one
    to the next: no coarse grid of bases finds the good ones.
    """
    if count >= len(bases):
        return torch.tensor(bases, dtype=torch.float32, device=device)
    grid = base_grid(scale, bases, device)
    first, second = _preselected(grid, coarse, count)
    return first.gather(1, _least(loss(first, second), count))[0]


def fixed_axis(device: torch.device) -> Axis:
    """Make the axis of a parameter that is not refined."""
    return Axis(torch.zeros(1, 1, device=device), 1)


def progressive_search(
    loss: Loss,
    grid: Grid,
    kept: int,
    steps: int,
    *,
    screen: Loss | None = None,
    coarse: Loss | None = None,
    finalists: int = 8,
    incumbent: Pair | None = None,
    of_last_step: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the best combination of each row that the search evaluates in any step, or in the last one.

    Args:
        loss: to minimise.
        grid: where to start.
        kept: combinations refined after each step.
        steps: steps of evaluation.
        screen: a cheaper loss that ranks candidates; the best ``finalists`` of all steps are evaluated by ``loss``.
        coarse: a loss that is cheaper still; the first combinations are those that it ranks best.
        finalists: see ``screen``.
        incumbent: a combination for each row, of shape (rows, 1), to be beaten.
        of_last_step: what was evaluated before the last step does not count, nor does ``incumbent``.

    Returns:
        First parameter, second parameter and error, each of shape (rows, 1).
    """
    first, second = _preselected(grid, coarse, kept)
    incumbent = None if of_last_step else incumbent
    best: tuple[Tensor, Tensor, Tensor] | None = None
    for level in range(steps):
        errors = (screen or loss)(first, second)
        best = _best(None if of_last_step else best, (first, second, errors), finalists if screen else 1)
        if level + 1 == steps or grid.first_axis.neighbours * grid.second_axis.neighbours == 1:
            break
        chosen = _least(errors, kept)
        first, second = grid.around(first.gather(1, chosen), second.gather(1, chosen), level)
    if best is None:
        raise ValueError(f"a search needs at least one step, got {steps}")
    first, second, errors = best
    if screen is not None or incumbent is not None:
        if incumbent is not None:  # first, so that it wins ties
            first, second = torch.cat([incumbent[0], first], 1), torch.cat([incumbent[1], second], 1)
        errors = loss(first, second)
    return _best(None, (first, second, errors), 1)


def _zero_points(low: Tensor, high: Tensor, bits: int, width: int, settings: FpcsSettings) -> Tensor:
    """Choose a window of ``width`` whole numbers in 0..2^bits − 1, of shape (rows, width)."""
    window = torch.arange(width, dtype=torch.float32, device=low.device)
    first: Tensor = torch.full((len(low), 1), float(2 ** (bits - 1) - width // 2), device=low.device)
    if settings.zero_point_window == "observed":
        low, high = low.clamp(max=0), high.clamp(min=0)
        observed = (-low / (high - low).clamp(min=_TINY) * (2**bits - 1)).round().unsqueeze(1)
        first = (observed - width // 2).clamp(0, 2**bits - width)  # moved inside, so that none occurs twice
    return first + window


def _combine(first: Tensor, second: Tensor, first_axis: Axis, second_axis: Axis) -> Grid:
    """Combine each of a row's values (rows, a) with each of (rows, b)."""
    shape = (len(first), first.shape[1], second.shape[1])
    return Grid(
        first.unsqueeze(2).expand(shape).flatten(1),
        second.unsqueeze(1).expand(shape).flatten(1),
        first_axis,
        second_axis,
    )


def _preselected(grid: Grid, coarse: Loss | None, kept: int) -> Pair:
    """Return the first combinations without those that are so bad that ``kept`` others are surely better."""
    first, second = grid.first, grid.second
    if coarse is None or first.shape[1] <= _COARSELY_KEPT * kept:
        return first, second
    chosen = _least(coarse(first, second), _COARSELY_KEPT * kept).sort(1).values  # in the order of the grid
    return first.gather(1, chosen), second.gather(1, chosen)


def _least(errors: Tensor, count: int) -> Tensor:
    """Find where the least errors of each row are, of shape (rows, count); the first of equals, NaN last."""
    order: Tensor = errors.sort(dim=1, stable=True).indices
    return order[:, :count]


def _best(
    before: tuple[Tensor, Tensor, Tensor] | None, now: tuple[Tensor, Tensor, Tensor], count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Merge what was found before and now, and keep the ``count`` best."""
    first, second, errors = now if before is None else (torch.cat(pair, 1) for pair in zip(before, now, strict=True))
    chosen = _least(errors, count)
    return first.gather(1, chosen), second.gather(1, chosen), errors.gather(1, chosen)
