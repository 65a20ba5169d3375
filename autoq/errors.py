"""Everything autoq raises on purpose.

    AutoqError
    ├── InputError                what the user gave is wrong; the command line exits with status 2 (ValueError)
    │   ├── ArgumentTypeError     an argument of a Python function has a type that it cannot have (TypeError)
    │   ├── ModelError            a model cannot be loaded or used
    │   │   ├── ModelNotFoundError    there is no such model (FileNotFoundError)
    │   │   └── TraceError        torch.export cannot trace the model
    │   ├── TaskError             a model's output is not what its task needs, or there is no such task
    │   ├── DataError             images cannot be read or labelled
    │   │   └── DataNotFoundError     there are no such images (FileNotFoundError)
    │   ├── RecipeError           a recipe is malformed, or belongs to another model
    │   │   └── RecipeNotFoundError   there is no such recipe (FileNotFoundError)
    │   ├── ExportError           a format cannot hold the recipe, or what writes it is not installed
    │   ├── SpaceError            a search space or study file is malformed
    │   ├── TargetError           a hardware description is malformed, or leaves nothing of what is asked for
    │   ├── MethodError           no such method, or it has no such option or bits
    │   ├── BudgetError           a budget cannot be parsed or reached
    │   ├── RunDirectoryError     a run directory cannot be used: not writable, another run's, in use
    │   ├── StorageError          a database cannot be used, or its study is another search's
    │   └── WorkerRefusedError    a worker has other weights, images, code or hardware than its driver
    └── RunError                  something failed while running; exit status 1 (RuntimeError)
        ├── CalibrationError      an operand's quantizer parameters cannot be solved
        └── NonFiniteError        a quantized model produced NaN or infinity

In brackets: the built-in that an error also derives from, so that ``except ValueError`` works where a Python user
expects it to. Messages are one line: they name the offending value and say what to do about it.
"""

from __future__ import annotations


class AutoqError(Exception):
    """Base of everything autoq raises on purpose."""


class InputError(AutoqError, ValueError):
    """The user's input is wrong; nothing was run or written."""


class ArgumentTypeError(InputError, TypeError):
    """An argument of a Python function has a type that it cannot have."""


class ModelError(InputError):
    """A model cannot be loaded or used."""


class ModelNotFoundError(ModelError, FileNotFoundError):
    """There is no such model."""


class TraceError(ModelError):
    """``torch.export`` cannot trace the model."""


class TaskError(InputError):
    """A model's output or its labels are not what the task needs, or there is no such task."""


class DataError(InputError):
    """Images cannot be read or labelled."""


class DataNotFoundError(DataError, FileNotFoundError):
    """There are no such images."""


class RecipeError(InputError):
    """A recipe is malformed, or belongs to another model."""


class RecipeNotFoundError(RecipeError, FileNotFoundError):
    """There is no such recipe."""


class ExportError(InputError):
    """A format cannot hold the recipe, or what writes the format is not installed."""


class SpaceError(InputError):
    """A search space or study file is malformed."""


class TargetError(InputError):
    """A hardware description is malformed, or leaves nothing of what is asked for."""


class MethodError(InputError):
    """There is no such quantization method, or it has no such option or bit-width."""


class BudgetError(InputError):
    """A budget cannot be parsed, or lies below what the search space can reach."""


class RunDirectoryError(InputError):
    """A run directory cannot be used: not writable, of another run, or in use by another process."""


class StorageError(InputError):
    """A database cannot be used, or the study in it is another search's."""


class WorkerRefusedError(InputError):
    """A worker has other weights, images, parameters, code or hardware than the driver of its study."""


class RunError(AutoqError, RuntimeError):
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
