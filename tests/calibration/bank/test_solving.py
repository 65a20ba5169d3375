"""Solving options: what runs on the images, and when."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autoq.calibration import CalibrationSettings
from autoq.calibration.bank import solving
from autoq.calibration.bank.files import SolvedKey, SolvedOption
from autoq.calibration.bank.solving import OptionSolver
from autoq.calibration.capture import capture
from autoq.calibration.fpcs.settings import FpcsSettings
from autoq.calibration.solvers import OperandSolver
from autoq.errors import CalibrationError
from autoq.graph.insert import QuantizedModel
from autoq.recipe import OperandConfig, SiteConfig
from autoq.tasks import CLASSIFICATION
from tests.calibration.samples import block_model, images

IMAGES = images(12)


@pytest.fixture(scope="module")
def model() -> QuantizedModel:
    return block_model()


def uniform(bits: int = 4, **fields: object) -> OperandConfig:
    return OperandConfig.model_validate({"scheme": "uniform", "bits": bits} | fields)


class Watched:
    """A solver, and what it asked of the images."""

    def __init__(
        self, model: QuantizedModel, settings: CalibrationSettings, recipe_sites: dict[str, SiteConfig] | None = None
    ) -> None:
        self.asked = 0
        self.batches: list[int] = []
        self.solver = OptionSolver(
            model,
            self._provide,
            settings,
            batch_size=5,
            recipe_sites=recipe_sites or {},
            known={},
            task=CLASSIFICATION,
            capture_progress=self.batches.append,
        )

    def _provide(self) -> Tensor:
        self.asked += 1
        return IMAGES

    def solve(self, *options: SolvedKey) -> dict[SolvedKey, SolvedOption]:
        found: dict[SolvedKey, SolvedOption] = {}
        for solved in self.solver.solve(options, 1):
            assert not found.keys() & solved.keys()
            found |= solved
        return found


def test_weights_need_no_images_and_products_need_one_pass(model: QuantizedModel) -> None:
    watched = Watched(model, CalibrationSettings())
    watched.solve(("fc1", "weight", uniform()))
    assert (watched.asked, watched.batches) == (0, [])
    watched.solve(("fc1", "input", uniform()))
    assert (watched.asked, watched.batches) == (1, [5, 5, 2])
    watched.solve(("qkv", "input", uniform()), ("fc2", "input", uniform(3)))
    assert (watched.asked, watched.batches) == (1, [5, 5, 2])
    watched.solve(("norm", "input", uniform()))  # no operand of a product: another pass
    assert (watched.asked, watched.batches) == (1, 2 * [5, 5, 2])


def test_second_order_weights_need_one_pass_for_all_that_fit_into_memory(
    model: QuantizedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_pass = [5, 5, 2]
    watched = Watched(model, CalibrationSettings(second_order=True))
    found = watched.solve(("fc1", "weight", uniform(3)), ("fc2", "weight", uniform(3)))
    assert all(solved.codes is not None for solved in found.values())
    assert (watched.asked, watched.batches) == (1, one_pass)
    watched.solve(("fc1", "weight", uniform(4)), ("fc2", "weight", OperandConfig(scheme="twin_uniform", bits=4)))
    assert watched.batches == one_pass, "matrices are kept, and other schemes need none"
    watched.solve(("qkv", "weight", uniform(4)))
    assert watched.batches == 2 * one_pass
    monkeypatch.setattr(solving, "_GRAM_BYTES", 0)
    short = Watched(model, CalibrationSettings(second_order=True))
    short.solve(*[(site, "weight", uniform(3)) for site in ("qkv", "fc1", "fc2")])
    assert short.batches == 3 * one_pass


def test_second_order_codes_of_a_recipes_site(model: QuantizedModel) -> None:
    """The scales are those that are found together with the input's."""
    fpcs = FpcsSettings(rounds=1)
    site = {"input": uniform(5), "weight": uniform(5, granularity="channel")}
    options = [("fc1", operand, config) for operand, config in site.items()]
    nearest, rounded = (
        Watched(model, CalibrationSettings(observer="fpcs", fpcs=fpcs, second_order=order), {"fc1": site}).solve(
            *options
        )
        for order in (False, True)
    )
    assert [solved.codes is None for solved in rounded.values()] == [True, False]
    for option in options:
        scales = [found[option].quantizer.qparams()["scale"] for found in (nearest, rounded)]
        assert torch.equal(*scales)


def test_options_are_those_of_the_operands_own_solver(model: QuantizedModel) -> None:
    settings = CalibrationSettings(observer="mse")
    options = [("fc1", "input", uniform(bits)) for bits in (3, 6)] + [("fc1", "weight", uniform(granularity="channel"))]
    found = Watched(model, settings).solve(*options)
    assert list(found) == options
    sample = capture(model, IMAGES.split(5), settings, operands=[("fc1", "input")])["fc1", "input"]
    for site, operand, config in options:
        described = model.traced.sites_by_name[site].operand(operand)
        data = model.traced.weight(site, operand) if described.is_weight else sample
        expected = OperandSolver(described, data, settings).solve(config).qparams()
        qparams = found[site, operand, config].quantizer.qparams()
        assert all(torch.equal(qparams[name], value) for name, value in expected.items())


def test_the_operands_of_a_recipes_site_are_solved_together(model: QuantizedModel) -> None:
    """What was not asked for is not given, though it was solved; without the recipe, the other is in full precision."""
    settings = CalibrationSettings(observer="fpcs", fpcs=FpcsSettings(rounds=1))
    site = {"input": uniform(2), "weight": uniform(2, granularity="channel")}
    option = ("fc1", "weight", site["weight"])
    together = Watched(model, settings, {"fc1": site}).solve(option)
    alone = Watched(model, settings).solve(option)
    assert list(together) == list(alone) == [option]
    assert not torch.equal(together[option].quantizer.qparams()["scale"], alone[option].quantizer.qparams()["scale"])
    both = Watched(model, settings, {"fc1": site}).solve(option, ("fc1", "input", site["input"]))
    assert torch.equal(both[option].quantizer.qparams()["scale"], together[option].quantizer.qparams()["scale"])
    other = ("fc1", "weight", uniform(5, granularity="channel"))  # not the recipe's
    assert torch.equal(
        Watched(model, settings, {"fc1": site}).solve(other)[other].quantizer.qparams()["scale"],
        Watched(model, settings).solve(other)[other].quantizer.qparams()["scale"],
    )


def test_errors_name_the_operand_and_the_option(model: QuantizedModel) -> None:
    with pytest.raises(CalibrationError, match=r"fc1:input at \{.*'head'.*\}: granularity 'head' needs"):
        Watched(model, CalibrationSettings()).solve(("fc1", "input", uniform(granularity="head")))
