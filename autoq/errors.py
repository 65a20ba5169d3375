"""Everything autoq raises on purpose.

::

    AutoqError
    ├── InputError                what the user gave is wrong; the command line exits with status 2
    │   ├── ModelError            a model cannot be found, loaded or used
    │   │   └── TraceError        torch.export cannot trace the model
    │   ├── DataError             images cannot be found, read or labelled
    │   ├── RecipeError           a recipe is malformed, or belongs to another model
    │   ├── SpaceError            a search space or study file is malformed
    │   ├── MethodError           no such method, or it has no such option or bits
    │   ├── BudgetError           a budget cannot be parsed or reached
    │   └── RunDirectoryError     a run directory cannot be used: not writable, another run's, in use
    └── RunError                  something failed while running; exit status 1
        ├── CalibrationError      an operand's quantizer parameters cannot be solved
        └── NonFiniteError        a quantized model produced NaN or infinity

Messages are one line: they name the offending value and say what to do about it.
"""

from __future__ import annotations


class AutoqError(Exception):
    """Base of everything autoq raises on purpose."""


class InputError(AutoqError):
    """The user's input is wrong; nothing was run or written."""


class ModelError(InputError):
    """A model cannot be found, loaded or used."""


class TraceError(ModelError):
    """``torch.export`` cannot trace the model."""


class DataError(InputError):
    """Images cannot be found, read or labelled."""


class RecipeError(InputError):
    """A recipe is malformed, or belongs to another model."""


class SpaceError(InputError):
    """A search space or study file is malformed."""


class MethodError(InputError):
    """There is no such quantization method, or it has no such option or bit-width."""


class BudgetError(InputError):
    """A budget cannot be parsed, or lies below what the search space can reach."""


class RunDirectoryError(InputError):
    """A run directory cannot be used: not writable, of another run, or in use by another process."""


class RunError(AutoqError):
    """Something failed while running."""


class CalibrationError(RunError):
    """The quantizer parameters of an operand cannot be solved."""


class NonFiniteError(RunError):
    """A quantized model produced NaN or infinity.

    Attributes:
        site: name of the first site whose output is not finite, or None if it could not be found.
    """

    def __init__(self, message: str, site: str | None = None) -> None:
        """Keep the name of the first offending site beside the message."""
        super().__init__(message)
        self.site = site
