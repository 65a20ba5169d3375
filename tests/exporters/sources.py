"""Something to export."""

from __future__ import annotations

from typing import NoReturn


def no_module() -> NoReturn:
    """Stand in for a quantized model that a format must not ask for."""
    raise AssertionError("the format needs the recipe alone")
