"""Codes that can be multiplied: a site's operands are quantized in one basis, and in one number format.

A weight has the basis of its input, for which it is transformed ahead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from autoq.errors import RecipeError
from autoq.graph.sites import Operand, Site
from autoq.quantizers import quantizer_class
from autoq.recipe import OperandConfig, SiteConfig

_FIRST, _FOLLOWS = "input", "weight"


def basis_block(operand: Operand, config: OperandConfig) -> int:
    """Return how many channels of an operand are mixed before they are quantized; 1: none.

    Raises:
        RecipeError: there is no such scheme.
    """
    axis = operand.layout.summed_axis
    return 1 if axis is None else quantizer_class(config.scheme).basis_block(config, operand.shape[axis])


def has_grid(config: OperandConfig) -> bool:
    """Tell whether values are equally spaced in the basis of their codes (``BaseQuantizer.code_grid``).

    Raises:
        RecipeError: there is no such scheme.

    >>> [has_grid(OperandConfig(scheme=scheme, bits=4)) for scheme in ("uniform", "hadamard", "log2")]
    [True, True, False]
    """
    plain = quantizer_class(config.scheme).in_basis(config, 1)
    return plain is not None and quantizer_class(plain.scheme).is_affine


def number_format(config: OperandConfig) -> str:
    """Return the number format of an operand's codes (``BaseQuantizer.number_format``).

    Raises:
        RecipeError: there is no such scheme.

    >>> [number_format(OperandConfig(scheme=scheme, bits=4)) for scheme in ("uniform", "log2", "mxfp4", "nvfp4")]
    ['integer', 'integer', 'mx', 'nvfp4']
    """
    return quantizer_class(config.scheme).number_format


def in_basis_of(operands: Iterable[Operand], site: SiteConfig, name: str, config: OperandConfig) -> OperandConfig:
    """Return an operand's configuration in the basis that it has beside the configurations of a site.

    Args:
        operands: of the site.
        site: their configurations.
        name: of the operand.
        config: of the operand, in any basis.

    Raises:
        RecipeError: its scheme has no codes in that basis.
    """
    if name != _FOLLOWS or _FIRST not in site:
        return config
    block = next(basis_block(operand, site[_FIRST]) for operand in operands if operand.name == _FIRST)
    found = quantizer_class(config.scheme).in_basis(config, block)
    if found is None:
        raise RecipeError(
            f"a weight of scheme {config.scheme} has no codes beside an input that is transformed in blocks of {block} "
            "channels: give it scheme uniform"
        )
    return found


def share_basis(operands: Iterable[Operand], site: SiteConfig) -> SiteConfig:
    """Return a site's configurations with the weight in the basis of the input; errors as in :func:`in_basis_of`."""
    if _FIRST not in site or _FOLLOWS not in site:
        return site
    return site | {_FOLLOWS: in_basis_of(operands, site, _FOLLOWS, site[_FOLLOWS])}


def options_in_all_bases(
    operands: Sequence[Operand], options: Mapping[str, Sequence[OperandConfig]]
) -> dict[str, tuple[OperandConfig, ...]]:
    """Add to the options of a weight what they are beside the input's options in other bases.

    Args:
        operands: of a site.
        options: by operand.

    Raises:
        RecipeError: a weight's scheme has no codes in one of these bases, or another operand than the input is offered
            a basis of its own.
    """
    found = {name: dict.fromkeys(listed) for name, listed in options.items()}
    for operand in operands:
        for config in options.get(operand.name, ()):
            if basis_block(operand, config) == 1:
                continue
            if operand.name != _FIRST:
                raise RecipeError(
                    f"{operand.name} cannot be offered scheme {config.scheme}: only inputs of layers can, and their "
                    "weights follow"
                )
            for own in options.get(_FOLLOWS, ()):
                found[_FOLLOWS][in_basis_of(operands, {_FIRST: config}, _FOLLOWS, own)] = None
    return {name: tuple(listed) for name, listed in found.items()}


def check_codes(sites: Mapping[str, Site], recipe_sites: Mapping[str, SiteConfig]) -> None:
    """Refuse a recipe in which two operands of a site are quantized in different bases or number formats.

    Args:
        sites: of the model, by name.
        recipe_sites: of the recipe; the model has its sites and operands.

    Raises:
        RecipeError: names the first such site, and what its operands have.
    """
    for name, site in recipe_sites.items():
        if len({number_format(config) for config in site.values()}) > 1:
            shown = ", ".join(f"{operand} is {config.scheme}" for operand, config in site.items())
            raise RecipeError(
                f"the operands of {name} are quantized in different number formats ({shown}), and no hardware "
                "multiplies such codes: give both schemes of one format"
            )
        blocks = {operand: basis_block(sites[name].operand(operand), config) for operand, config in site.items()}
        if len(set(blocks.values())) > 1:
            shown = ", ".join(f"{operand} in blocks of {block}" for operand, block in blocks.items())
            raise RecipeError(
                f"the operands of {name} are quantized in different bases ({shown} channels), and such codes cannot be "
                "multiplied: give both scheme hadamard and one hadamard_block, or neither"
            )
