"""Phases in chunks give what they give whole, and recipes are scored with the driver's bank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from autoq.calibration import Bank, CalibrationSettings
from autoq.errors import RunError
from autoq.optimization.executors._base import Chunk
from autoq.optimization.executors.chunks import ChunkRunner
from autoq.recipe import OperandConfig
from autoq.runs.images import CalibrationImages
from autoq.runs.search.chunks import FisherChunk, accuracy_in_chunks, fisher_in_chunks, score_in_chunks, solve_in_chunks
from autoq.runs.session import Session
from autoq.scoring import Evaluator
from autoq.sensitivity.fisher import FisherSettings, fisher_losses
from autoq.sensitivity.table import Option
from autoq.sensitivity.weighted_errors import mean_losses
from tests.runs.search.states import make_state
from tests.runs.small_run import PHOTOS, small_session, write_photos

IMAGES = 12
SETTINGS = CalibrationSettings(observer="min_max", second_order=True)


@pytest.fixture(scope="module")
def session() -> Session:
    return small_session()


@pytest.fixture(scope="module")
def images(session: Session) -> CalibrationImages:
    return session.calibration_images("digits", IMAGES, 0)


def bank_of(session: Session, images: CalibrationImages) -> Bank:
    return session.bank(lambda: images, images.sha256, SETTINGS)


def options_of(session: Session) -> list[Option]:
    return [
        (site.name, operand.name, OperandConfig(scheme="uniform", bits=bits, granularity=granularity))
        for site, operand in session.traced.operands()
        if site.macs
        for bits, granularity in ((3, "channel"), (5, "channel"))
        if operand.is_weight
    ] + [
        (site.name, operand.name, OperandConfig(scheme="uniform", bits=4))
        for site, operand in session.traced.operands()
        if site.macs and not operand.is_weight
    ]


def test_a_bank_solved_elsewhere_in_chunks_is_the_same(
    session: Session, images: CalibrationImages, tmp_path: Path
) -> None:
    options = options_of(session)
    elsewhere = bank_of(session, images)
    whole, shared = bank_of(session, images), bank_of(session, images)
    whole.solve_all(options)
    told: list[int] = []
    runner = ChunkRunner(make_state(session, images, elsewhere, tmp_path))
    shared.solve_into(tmp_path, options, lambda done, _: told.append(done), solve_in_chunks(runner, shared, 2))
    assert len(told) > 4, "several chunks"
    assert told[-1] == len(options) == len(shared)
    assert len(elsewhere) == 0, "a worker keeps nothing"
    for option in options:
        one, other = whole.quantizer(*option).qparams(), shared.quantizer(*option).qparams()
        assert all(torch.equal(one[name], other[name]) for name in one)
        codes, other_codes = whole.codes(*option), shared.codes(*option)
        assert (codes is None) is (other_codes is None)
        assert codes is None or other_codes is None or torch.equal(codes, other_codes)
    again = bank_of(session, images)
    assert again.load(tmp_path), "saved"
    assert len(again) == len(options)


def test_losses_measured_on_some_images_each_are_those_of_all(
    session: Session, images: CalibrationImages, tmp_path: Path
) -> None:
    bank, options = bank_of(session, images), options_of(session)[::3]
    seen: list[int] = []
    runner = ChunkRunner(make_state(session, images, bank, tmp_path, is_owner=True))
    parts = list(fisher_in_chunks(runner, [range(5), range(5, IMAGES)], options, 6, seen.append))
    assert [count for _, count in parts] == [5, IMAGES - 5]
    expected = fisher_losses(bank, [images.tensor], options, FisherSettings(seed=SETTINGS.seed))
    assert mean_losses(parts) == pytest.approx(expected, rel=1e-4)
    assert seen == [1] * 5 + [2] * 3 + [1]


@pytest.mark.parametrize(
    ("images", "workers", "sizes"),
    [(48, 2, [12] * 4), (16, 2, [8] * 2), (112, 2, [19] * 5 + [17]), (3, 2, [2, 1]), (30, 1, [15, 15]), (0, 2, [])],
)
def test_no_worker_is_idle_and_none_has_few_images(images: int, workers: int, sizes: list[int]) -> None:
    """Quantizing weights at every option takes as long as several images."""
    given: list[FisherChunk] = []

    class Listed(ChunkRunner):
        def run(self, chunks: Iterable[Chunk]) -> Iterator[tuple[int, Any]]:
            for position, chunk in enumerate(chunks):
                assert isinstance(chunk, FisherChunk)
                given.append(chunk)
                yield position, ({}, chunk.count)

    seen: list[int] = []
    assert list(fisher_in_chunks(Listed(None), [range(images)], [], workers, seen.append)) == [({}, images)]
    assert seen == sizes
    assert [chunk.first for chunk in given] == [sum(sizes[:number]) for number in range(len(sizes))]


class OutOfOrder(ChunkRunner):
    """Has chunks done one after the other, from the second on, and the first before the last."""

    def run(self, chunks: Iterable[Chunk]) -> Iterator[tuple[int, Any]]:
        first, *others, last = enumerate(chunks)
        for position, chunk in (*others, first, last):
            yield position, chunk.run(self._state)


def test_the_next_images_are_begun_before_the_first_are_dealt_with(
    session: Session, images: CalibrationImages, tmp_path: Path
) -> None:
    bank, options = bank_of(session, images), options_of(session)[::9]
    state = make_state(session, images, bank, tmp_path, is_owner=True)
    parts, seen = [range(6), range(6, 12)], list[int]()
    expected = list(fisher_in_chunks(ChunkRunner(state), parts, options, 6, seen.append))
    assert seen == [1] * 12
    seen.clear()
    found = fisher_in_chunks(OutOfOrder(state), parts, options, 6, seen.append)
    assert next(found) == expected[0], "sums do not depend on who is faster"
    assert len(seen) == 11
    assert list(found) == expected[1:]


def test_recipes_are_scored_with_what_the_driver_has_solved(
    session: Session, images: CalibrationImages, tmp_path: Path
) -> None:
    write_photos(tmp_path / "photos")
    driver, worker = bank_of(session, images), bank_of(session, images)
    recipes = {
        name: {"head": {"weight": OperandConfig(scheme="uniform", bits=bits, granularity="channel")}}
        for name, bits in (("a", 2), ("b", 5), ("c", 8))
    }
    runner = ChunkRunner(make_state(session, images, worker, tmp_path))
    with pytest.raises(RunError, match=r"has no head:weight at \{.*\} yet: does this machine see"):
        list(score_in_chunks(runner, recipes))
    assert len(worker) == 0, "it solves nothing itself"
    driver.solve_into(
        tmp_path / "bank", [("head", "weight", each["head"]["weight"]) for each in recipes.values()], print
    )
    found = dict(score_in_chunks(runner, recipes))
    evaluator = Evaluator(session.model, driver, images.tensor)
    assert found == {name: evaluator.evaluate(sites).kl_nats for name, sites in recipes.items()}
    measured = {name: each for name, each, seconds in accuracy_in_chunks(runner, recipes, lambda name: name != "b")}
    assert measured.keys() == {"a", "c"}
    assert all(each.images == PHOTOS for each in measured.values())
    assert measured["a"].kl_nats != measured["c"].kl_nats
