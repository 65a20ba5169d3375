"""Quantizers that reconstruction has left, in place of a bank."""

from __future__ import annotations

import pytest

from autoq.calibration import CalibrationSettings
from autoq.errors import RecipeError
from autoq.methods import BitWidths, create_method
from autoq.quantizers.integer_softmax import IntegerSoftmax
from autoq.scoring.evaluator import Evaluator
from autoq.scoring.solved_operands import SolvedOperands
from autoq.scoring.sources import SolvedSource
from tests.runs.small_run import small_session


def test_there_are_one_recipe_and_full_precision() -> None:
    session = small_session()
    method, bits = create_method("fq-vit"), BitWidths(4, 4, 4)
    sites = method.sites(session.traced, bits)
    images = session.calibration_images("digits", 8, 0)
    bank = session.bank(lambda: images, images.sha256, CalibrationSettings(observer="min_max"))
    operands = SolvedOperands.from_bank(bank, sites)
    source = SolvedSource(session.model, operands)
    assert all(slot.quantizer is None for slot in session.model.slots.values())
    assert all(slot.replacement is None for slot in session.model.operations.values())
    expected = Evaluator(session.model, bank, images.tensor).evaluate(sites)
    evaluator = Evaluator(session.model, source, images.tensor)
    assert evaluator.evaluate({}).kl_nats == 0
    assert evaluator.evaluate(sites) == expected
    replaced = [slot.replacement for slot in session.model.operations.values()]
    assert any(isinstance(each, IntegerSoftmax) for each in replaced)
    with pytest.raises(RecipeError, match="not the one that was reconstructed"):
        source.apply_({"head": sites["head"]})
    source.apply_({site: {} for site in sites})  # nothing is quantized: full precision
    assert all(slot.quantizer is None for slot in session.model.slots.values())
