"""The published methods at uniform bits, as presets that make a recipe and its bank.

To add a method, write a subclass of :class:`BaseMethod` in a file of its own and add it to ``METHODS`` below.
"""

from __future__ import annotations

from autoq.errors import MethodError
from autoq.methods._base import BaseMethod, MethodOptions
from autoq.methods.adalog import AdaLog
from autoq.methods.aphq_vit import AphqVit
from autoq.methods.bit_widths import BitWidths
from autoq.methods.fq_vit import FqVit
from autoq.methods.igq_vit import IgqVit
from autoq.methods.ptq4vit import Ptq4Vit
from autoq.methods.repq_vit import RepqVit
from autoq.methods.rtn import Rtn
from autoq.registry import Registry

METHODS: Registry[type[BaseMethod]] = Registry(
    "method", MethodError, {cls.name: cls for cls in (Rtn, FqVit, Ptq4Vit, RepqVit, IgqVit, AdaLog, AphqVit)}
)
"""Methods by the name that ``autoq quantize --method`` takes."""


def create_method(name: str, options: MethodOptions | None = None) -> BaseMethod:
    """Make a method by name.

    Raises:
        MethodError: there is no such method, or it does not have one of the options.

    >>> create_method("adalog").images
    32
    """
    return METHODS.lookup(name)(options)


__all__ = ["METHODS", "BaseMethod", "BitWidths", "MethodOptions", "create_method"]
