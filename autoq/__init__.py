"""autoq: per-layer mixed-precision quantization search for vision transformers.

The package is organised in floors (see ``[tool.importlinter]`` in pyproject.toml); import what you need from them:
``autoq.models``, ``autoq.data``, ``autoq.graph``, ``autoq.calibration``, ``autoq.scoring``, ``autoq.search``,
``autoq.report`` and ``autoq.export``. This module stays free of heavy imports so that ``autoq --help`` is instant.
"""

__version__ = "0.1.0"
