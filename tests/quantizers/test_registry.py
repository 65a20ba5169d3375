from __future__ import annotations

import subprocess
import sys

import pytest

from autoq.errors import RecipeError
from autoq.quantizers import QUANTIZERS, BaseQuantizer, create_quantizer, quantizer_class
from autoq.recipe import OperandConfig
from tests.contracts.quantizers import LINEAR_INPUT


def test_every_scheme_is_registered_under_its_name() -> None:
    assert {"uniform", "log2", "log_sqrt2", "adalog", "instance_groups"} <= set(QUANTIZERS)
    for scheme, cls in QUANTIZERS.items():
        assert cls.scheme == scheme
        assert issubclass(cls, BaseQuantizer)
        assert cls.__doc__


def test_unknown_scheme_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown quantization scheme 'adalg'; .* Did you mean 'adalog'\?"):
        quantizer_class("adalg")
    with pytest.raises(RecipeError, match="there are uniform, log2"):
        create_quantizer(OperandConfig(scheme="xyz", bits=4), LINEAR_INPUT, {})


def test_importing_quantizers_imports_no_heavy_library() -> None:
    code = "import sys, autoq.quantizers; print(sorted({'optuna', 'timm', 'matplotlib', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
