"""Types of the values in a search space: pydantic types that take a scalar or a list and give a tuple of choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator

from autoq.recipe import Granularity
from autoq.validation import did_you_mean, power_of_two

FIT = "fit"
"""The choice of ``log_base_numerator`` that leaves the base to calibration (``None`` in an ``OperandConfig``)."""

CONFIG_FIELDS = (
    "scheme",
    "bits",
    "granularity",
    "symmetric",
    "groups",
    "log_base_numerator",
    "overflow",
    "hadamard_block",
)
"""What rules set and ties bind: the fields of ``OperandConfig``, in the order in which decisions are listed."""


def _one_or_many(check: Callable[[Any], Any]) -> BeforeValidator:
    """Make a validator that takes a scalar or a list, applies ``check`` to each value and gives a tuple."""

    def validate(value: Any) -> tuple[Any, ...]:
        values = value if isinstance(value, (list, tuple)) else [value]
        if not values:
            raise ValueError("an empty list leaves nothing to choose from")
        checked = tuple(check(item) for item in values)
        repeated = [item for position, item in enumerate(checked) if item in checked[:position]]
        if repeated:
            raise ValueError(f"{repeated[0]!r} is listed twice")
        return checked

    return BeforeValidator(validate)


def _glob(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a glob over names, such as 'blocks.*.attn.qkv', got {value!r}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {value!r}")
    return value


def _whole(low: int, high: int | None = None) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
            span = f"from {low} to {high}" if high is not None else f"of at least {low}"
            raise ValueError(f"expected a whole number {span}, got {value!r}")
        return value

    return check


def _block(value: Any) -> int:
    return power_of_two(_whole(1)(value))


def _one_of(known: Callable[[], Sequence[str]]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        names = known()
        if value not in names:
            near = did_you_mean(value, names) if isinstance(value, str) else ""
            raise ValueError(f"{value!r} is not one of {', '.join(names)}.{near}")
        return str(value)

    return check


def _log_base(value: Any) -> int | str:
    if value == FIT:
        return FIT
    try:
        return _whole(10, 137)(value)
    except ValueError as error:
        raise ValueError(f'{error}; "fit" leaves the base to calibration') from None


# Imported when a file is read, not before: both modules lead to torch, and autoq --help must not.
def _schemes() -> list[str]:
    from autoq.quantizers import QUANTIZERS

    return sorted(QUANTIZERS)


def _site_literals(name: str) -> Callable[[], Sequence[str]]:
    def known() -> Sequence[str]:
        from autoq.graph import sites

        return get_args(getattr(sites, name))

    return known


Globs = Annotated[tuple[str, ...], _one_or_many(_glob)]
Ops = Annotated[tuple[str, ...], _one_or_many(_one_of(_site_literals("SiteOp")))]
Operands = Annotated[tuple[str, ...], _one_or_many(_one_of(lambda: ("input", "weight", "lhs", "rhs")))]
Producers = Annotated[tuple[str, ...], _one_or_many(_one_of(_site_literals("Producer")))]
Schemes = Annotated[tuple[str, ...], _one_or_many(_one_of(_schemes))]
Granularities = Annotated[tuple[str, ...], _one_or_many(_one_of(lambda: get_args(Granularity)))]
Overflows = Annotated[tuple[str, ...], _one_or_many(_one_of(lambda: ("zero_code", "extra_zero")))]
Bits = Annotated[tuple[int, ...], _one_or_many(_whole(1, 16))]
Groups = Annotated[tuple[int, ...], _one_or_many(_whole(1))]
HadamardBlocks = Annotated[tuple[int, ...], _one_or_many(_block)]
Symmetric = Annotated[tuple[bool, ...], _one_or_many(_flag)]
LogBases = Annotated[tuple[int | str, ...], _one_or_many(_log_base)]
Fields = Annotated[tuple[str, ...], _one_or_many(_one_of(lambda: CONFIG_FIELDS))]
Flag = Annotated[bool, BeforeValidator(_flag)]
TieScope = Annotated[str, BeforeValidator(_one_of(lambda: ("site", "operand", "all")))]
