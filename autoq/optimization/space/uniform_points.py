"""Uniform points: the best that a space can do with one bit-width for all weights and one for all activations.

They are what a search is compared with, so that everything but the bits is chosen well: schemes, granularities and
logarithm bases by what each loses alone, and the image keeps the 8 bits that its pixels have, as in the papers
(AdaLog, RepQ-ViT, IGQ-ViT).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autoq.optimization.space.decisions import Assignment, Decision, ResolvedSpace
from autoq.recipe import IMAGE_BITS, OperandConfig, SiteConfig, hash_sites

UniformPoint = tuple[str, Assignment]
"""Label such as ``w4a4`` or ``w4a4 g8``, and assignment."""

OptionLoss = Callable[[str, str, OperandConfig], float]
"""Site, operand and canonical configuration to the loss when this operand alone is quantized."""


def uniform_points(
    space: ResolvedSpace, loss: OptionLoss | None = None, widths: Sequence[tuple[int, int]] = ()
) -> list[UniformPoint]:
    """List uniform points, to start from and to compare with.

    One for each bit-width that a decision offers, first with the fewest groups, then with each larger count; points
    that make the same recipe are listed once. Labels tell the bits that most weights and most activations get.

    Args:
        space: what may be chosen.
        loss: of options alone, by which schemes are chosen; None: the first scheme, and fitted logarithm bases.
        widths: more pairs of a width for weights and one for activations, in the fewest groups.
    """
    bits = offered(space, "bits") or [0]
    equal = [(width, width) for width in bits]
    pairs = [*equal, *(pair for pair in widths if pair not in equal)]
    more_groups = itertools.product(offered(space, "groups")[1:], equal)
    points: list[UniformPoint] = []
    seen: set[str] = set()
    labels: Counter[str] = Counter()
    for groups, pair in [*((0, pair) for pair in pairs), *more_groups]:
        assignment = uniform_assignment(space, *pair, groups, loss)
        sites = space.sites_for(assignment)
        if (recipe := hash_sites(sites)) in seen:
            continue
        seen.add(recipe)
        label = _label(sites, space.image) + (f" g{groups}" if groups else "")
        labels[label] += 1
        points.append((label if labels[label] == 1 else f"{label} #{labels[label]}", assignment))
    return points


def uniform_assignment(
    space: ResolvedSpace, weight_bits: int, activation_bits: int, groups: int = 0, loss: OptionLoss | None = None
) -> dict[str, Any]:
    """Assign the choice nearest to a width or a number of groups everywhere, and the schemes that then lose least.

    Where the space leaves the image's bits open on their own, it gets at least 8.

    Args:
        space: what may be chosen.
        weight_bits: of weights, and of what is tied to weights alone.
        activation_bits: of all else.
        groups: of every operand; 0: as few as there may be.
        loss: of options alone; None: the first scheme, and fitted logarithm bases.
    """
    assignment = space.uniform_assignment(activation_bits, groups)
    of_weights = space.uniform_assignment(weight_bits, groups)
    of_image = space.uniform_assignment(max(IMAGE_BITS, activation_bits), groups)
    for decision in space.decisions:
        if decision.field == "bits":
            if all(operand == "weight" for _, operand in decision.targets):
                assignment[decision.name] = of_weights[decision.name]
            elif decision.targets == (space.image,):
                assignment[decision.name] = of_image[decision.name]
    return assignment if loss is None else _with_best_schemes(space, assignment, loss)


def offered(space: ResolvedSpace, field: str) -> list[int]:
    """List the choices of all decisions about a field with numbers, ascending."""
    return sorted({choice for decision in space.decisions if decision.field == field for choice in decision.choices})


def has_schemes(space: ResolvedSpace) -> bool:
    """Tell whether anything but bits and groups is open."""
    return any(_is_about_schemes(decision) for decision in space.decisions)


def _with_best_schemes(space: ResolvedSpace, assignment: dict[str, Any], loss: OptionLoss) -> dict[str, Any]:
    """Improve every choice but bits and groups until none alone lowers the losses of the sites that it touches."""
    open_decisions = [decision for decision in space.decisions if _is_about_schemes(decision)]
    changed = True
    while changed:
        changed = False
        for decision in open_decisions:
            best = _best_choice(space, decision, assignment, loss)
            changed = changed or best != assignment[decision.name]
            assignment = assignment | {decision.name: best}
    return assignment


def _best_choice(space: ResolvedSpace, decision: Decision, assignment: Assignment, loss: OptionLoss) -> Any:
    """Return the choice of least loss that leaves the bits as they are; the present one where no other is better."""
    sites = dict.fromkeys(site for site, _ in decision.targets)

    def options(choice: Any) -> list[tuple[str, str, OperandConfig]]:
        way = {**assignment, decision.name: choice}
        configs = ((site, space.site_config(site, way)) for site in sites)
        return [(site, name, config) for site, operands in configs for name, config in operands.items()]

    present = assignment[decision.name]
    found = {choice: options(choice) for choice in (present, *decision.choices)}
    widths = {choice: [config.bits for *_, config in each] for choice, each in found.items()}
    same = [choice for choice in found if widths[choice] == widths[present]]
    return min(same, key=lambda choice: sum(loss(*option) for option in found[choice]))


def _is_about_schemes(decision: Decision) -> bool:
    return decision.field not in ("bits", "groups")


def _label(sites: Mapping[str, SiteConfig], image: tuple[str, str] | None) -> str:
    """Name a recipe by the commonest bits of its weights and of its activations, the image aside: ``w4a4``."""
    common = []
    for letter, is_weight in (("w", True), ("a", False)):
        widths = {
            (site, name): config.bits
            for site, operands in sites.items()
            for name, config in operands.items()
            if (name == "weight") == is_weight
        }
        bits = Counter(width for key, width in widths.items() if key != image or len(widths) == 1)
        common.append(f"{letter}{bits.most_common(1)[0][0]}" if bits else f"{letter}32")
    return "".join(common)
