"""A fitted base."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from autoq.errors import CalibrationError
from autoq.quantizers import AdaLogQuantizer, create_quantizer
from tests.contracts.quantizers import ATTENTION_MAP, Case, QuantizerContract
from tests.quantizers.logarithms import VECTOR, config_of, make


class TestAdaLogContract(QuantizerContract):
    gradient_is_one_within = (0.01, 0.2)
    is_idempotent = False  # a value rounded to the table's grid may lie in a neighbour's interval
    cases: ClassVar[list[Case]] = [
        Case(config_of("adalog", 1), lower=0.0, upper=1.0),
        Case(config_of("adalog", 3, log_base_numerator=20), ATTENTION_MAP, (4, 3, 5, 6), lower=0.0, upper=1.0),
        Case(config_of("adalog", 4, overflow="extra_zero"), lower=0.0, upper=1.0),
        Case(config_of("adalog", 4, log_base_numerator=17), lower=-0.16, upper=2.0),
        Case(config_of("adalog", 4, granularity="group", groups=5), lower=-0.16, upper=2.0),
        Case(config_of("adalog", 8, log_base_numerator=10), lower=0.0, upper=1.0),
        Case(config_of("adalog", 5, granularity="head"), ATTENTION_MAP, (4, 3, 5, 6), lower=0.0, upper=1.0),
        Case(config_of("adalog", 16), lower=0.0, upper=1.0),
    ]


@pytest.mark.parametrize("code_is_even", [True, False])
def test_ties_go_to_the_even_code(code_is_even: bool) -> None:
    """With q = 74 the thresholds are 2^−1, 2^−3, 2^−5 ...: exact ties in float32."""
    quantizer = make(config_of("adalog", 4, log_base_numerator=74))
    x = torch.tensor([2.0**-1, 2.0**-5] if code_is_even else [2.0**-3, 2.0**-7])
    assert quantizer.quantize(x).tolist() == ([0, 2] if code_is_even else [2, 4])
    assert quantizer.quantize(x.double()).tolist() == quantizer.quantize(x).tolist()


@pytest.mark.parametrize("numerator", [9, 138, 20.5])
def test_refuses_bases_out_of_range(numerator: float) -> None:
    qparams = {"scale": torch.ones(1), "shift": torch.zeros(1), "log_base_numerator": torch.tensor(numerator)}
    with pytest.raises(CalibrationError, match="log_base_numerator must be a whole number"):
        create_quantizer(config_of("adalog", 4), VECTOR, qparams)


def test_refuses_a_base_other_than_the_configured_one() -> None:
    qparams = {"scale": torch.ones(1), "shift": torch.zeros(1), "log_base_numerator": torch.tensor(20)}
    with pytest.raises(CalibrationError, match="but the configuration says 31"):
        create_quantizer(config_of("adalog", 4, log_base_numerator=31), VECTOR, qparams)


def test_a_loaded_state_brings_its_base() -> None:
    x = torch.rand(100, generator=torch.Generator().manual_seed(0))
    loaded, other = make(config_of("adalog", 4)), make(config_of("adalog", 4, log_base_numerator=20))
    assert not torch.equal(loaded(x), other(x))
    loaded.load_state_dict(other.state_dict())
    assert torch.equal(loaded(x), other(x))
    assert loaded.resolved_config().log_base_numerator == 20


def test_marks_name_the_base() -> None:
    label = AdaLogQuantizer.label(config_of("adalog", 4, log_base_numerator=74))
    assert (label.mark, label.log_base) == ("q74", "4.00")
    label = AdaLogQuantizer.label(config_of("adalog", 4))
    assert (label.mark, label.log_base) == ("fit", "fit")
