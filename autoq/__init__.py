"""autoq: per-layer mixed-precision quantization search for vision transformers.

>>> import autoq
>>> result = autoq.search("vit_digits", "digits", "w4a4", trials=8, calib_images=16, fast=True)
>>> quantized = autoq.quantize("vit_digits", result.best)

===================  =================================================================================================
``search``           find the recipe that loses least within a budget, and the front around it
``quantize``         make the quantized module of a recipe or of a published method
``evaluate``         measure a quantized module or a recipe: discrepancy, accuracy, cost
``finish``           solve the weights of a recipe again on its own quantized inputs, in closed form
``reconstruct``      train the rounding and the scales of a recipe on unlabelled images
``export``           write a quantized model in another format, and compare what was written
``latency``          time quantized models as ONNX against the model in floating point
``latency_table``    measure every site in floating point and in integers, for budgets of latency
``verify``           compute a recipe's products in integers, and how wide their sums get
``sites``            list what of a model can be quantized
``load_quantized``   load a quantized model from a folder that ``export`` wrote
``load_recipe``      read a recipe
``Recipe``           how every operand of a model is quantized
``SearchResult``     the front as a table, recipes, pictures, the run directory
``QuantizedModule``  a quantized model, as a normal ``torch.nn.Module``
``Evaluation``       what ``evaluate`` measured
``ExportReport``     what ``export`` wrote, and how it agrees
``errors``           everything that autoq raises on purpose
===================  =================================================================================================

Everything is imported when it is first used, so that ``import autoq`` and ``autoq --help`` are instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from autoq.version import __version__

if TYPE_CHECKING:
    from autoq import errors
    from autoq.api.applying import quantize
    from autoq.api.evaluating import Evaluation, evaluate
    from autoq.api.exporting import export
    from autoq.api.finishing import finish
    from autoq.api.inspecting import load_recipe, sites
    from autoq.api.reconstructing import reconstruct
    from autoq.api.result import SearchResult
    from autoq.api.searching import search
    from autoq.api.timing import latency, latency_table
    from autoq.api.verifying import verify
    from autoq.exporters import ExportReport, load_quantized
    from autoq.recipe import Recipe
    from autoq.scoring.quantized_module import QuantizedModule

_HOMES = {
    "Evaluation": "autoq.api.evaluating",
    "ExportReport": "autoq.exporters",
    "QuantizedModule": "autoq.scoring.quantized_module",
    "Recipe": "autoq.recipe",
    "SearchResult": "autoq.api.result",
    "errors": "autoq.errors",
    "evaluate": "autoq.api.evaluating",
    "export": "autoq.api.exporting",
    "latency": "autoq.api.timing",
    "latency_table": "autoq.api.timing",
    "load_quantized": "autoq.exporters",
    "load_recipe": "autoq.api.inspecting",
    "quantize": "autoq.api.applying",
    "finish": "autoq.api.finishing",
    "reconstruct": "autoq.api.reconstructing",
    "search": "autoq.api.searching",
    "sites": "autoq.api.inspecting",
    "verify": "autoq.api.verifying",
}
"""The module that each public name is imported from."""

__all__ = [
    "Evaluation",
    "ExportReport",
    "QuantizedModule",
    "Recipe",
    "SearchResult",
    "__version__",
    "errors",
    "evaluate",
    "export",
    "finish",
    "latency",
    "latency_table",
    "load_quantized",
    "load_recipe",
    "quantize",
    "reconstruct",
    "search",
    "sites",
    "verify",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'autoq' has no attribute {name!r}")
    module = import_module(_HOMES[name])
    return module if name == "errors" else getattr(module, name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
