"""A registry: the variants of one kind of thing (quantizers, samplers, methods, ...) by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any, Generic, TypeVar

from autoq.errors import AutoqError
from autoq.validation import did_you_mean

_T = TypeVar("_T")


def imported(module: str, name: str) -> Callable[..., Any]:
    """Return what calls ``name`` (``Class`` or ``Class.method``) of a module, which is imported at the first call.

    >>> imported("fractions", "Fraction.from_float")(0.5)
    Fraction(1, 2)
    """

    def call(*arguments: Any) -> Any:
        return attrgetter(name)(import_module(module))(*arguments)

    return call


class Registry(Mapping[str, _T], Generic[_T]):
    """Variants by name, in the order in which they were registered.

    The package that holds the variants lists its own when it makes the registry; others are added by :meth:`register`.

    >>> from autoq.errors import InputError
    >>> shapes = Registry("shape", InputError, {"circle": 0, "square": 4})
    >>> shapes.register("triangle", 3)
    >>> shapes["triangle"], "pentagon" in shapes
    (3, False)
    >>> shapes.lookup("sqare")
    Traceback (most recent call last):
    autoq.errors.InputError: unknown shape 'sqare'; there are circle, square, triangle. Did you mean 'square'?
    """

    def __init__(self, noun: str, error: type[AutoqError], entries: Mapping[str, _T]) -> None:
        """Register the first variants.

        Args:
            noun: what one variant is called in messages.
            error: what :meth:`lookup` raises for a name that is not registered.
            entries: variants by name.
        """
        self._noun, self._error = noun, error
        self._entries = dict(entries)

    def register(self, name: str, entry: _T) -> None:
        """Add a variant.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._entries:
            raise ValueError(f"there is already a {self._noun} {name!r}; unregister it first, or use another name")
        self._entries[name] = entry

    def unregister(self, name: str) -> None:
        """Take a variant out.

        Raises:
            KeyError: there is none of this name.
        """
        del self._entries[name]

    def lookup(self, name: str) -> _T:
        """Return the variant of this name; unlike indexing, explain to a user why there is none.

        Raises:
            AutoqError: the registry's own subclass of it, if there is no such variant; the message lists those there
                are and names the nearest.
        """
        if name not in self._entries:
            known = ", ".join(self._entries)
            raise self._error(f"unknown {self._noun} {name!r}; there are {known}.{did_you_mean(name, self._entries)}")
        return self._entries[name]

    def __getitem__(self, name: str) -> _T:
        """Return the variant of this name, or raise ``KeyError``."""
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Count the variants."""
        return len(self._entries)
