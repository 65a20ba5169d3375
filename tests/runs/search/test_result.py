"""The answer of a search, made from its directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoq.recipe import Recipe, ScoreRecord
from autoq.runs.search.directory import SearchDirectory
from autoq.runs.search.record import ImprovedEntry, ImprovedKind
from autoq.runs.search.result import make_result
from tests.runs.small_run import finished_run


def test_the_front_and_the_best() -> None:
    directory = SearchDirectory(finished_run())
    record = directory.require()
    found = make_result(directory, record, directory.trials())
    assert (found.out, found.budget_bops) == (str(finished_run()), record.budgets["bops"])
    assert (found.finished, found.reconstructed) == ((), ())
    costs, losses = [point.bops for point in found.front], [point.kl_nats for point in found.front]
    assert costs == sorted(costs)
    assert losses == sorted(losses, reverse=True)
    assert max(costs) <= record.budgets["bops"]
    assert found.best == found.front[-1].id
    for point in found.front:
        recipe = Recipe.load(point.recipe)
        assert recipe.cost is not None
        assert recipe.score is not None
        assert (recipe.cost.bops, recipe.score.kl_nats) == (point.bops, point.kl_nats)


@pytest.mark.parametrize("kind", ["finished", "reconstructed"])
def test_what_was_improved_is_cheapest_first(kind: ImprovedKind) -> None:
    directory = SearchDirectory(finished_run())
    front = make_result(directory, directory.require(), directory.trials()).front
    score = ScoreRecord(kl_nats=0.5, agreement_percent=99, sqnr_db=9, images=16)
    entries = {
        point.id: ImprovedEntry(recipe=f"{kind}/{point.id}.json", images=2, score=score) for point in reversed(front)
    }
    record = directory.require().model_copy(update={kind: entries})
    found = getattr(make_result(directory, record, directory.trials()), kind)
    assert [point.id for point in found] == [point.id for point in front]
    assert {point.kl_nats for point in found} == {0.5}
    assert Path(found[0].recipe).parent == directory.improved(kind)
