"""``run.json``: what it knows of the model, and what a later run takes over."""

from __future__ import annotations

import pytest

from autoq.cost import BOPS, KINDS, uniform_bops
from autoq.errors import BudgetError
from autoq.optimization.space import load_space, resolve_space
from autoq.recipe import ScoreRecord
from autoq.runs.opening import RunInputs
from autoq.runs.search.record import ImprovedEntry, RunRecord, new_record
from autoq.runs.search.settings import SearchSettings
from tests.optimization.synthetic_sites import vit
from tests.runs.search.records import make_record
from tests.runs.small_run import small_session


def test_the_record_knows_uniform_costs() -> None:
    """As the model's sites would give them, without the model."""
    record = make_record()
    for weights, activations in ((4, 4), (8, 4), (3, 8)):
        assert record.uniform_cost(BOPS, weights, activations) == uniform_bops(vit(), weights, activations)


def test_early_records_knew_no_budget_but_that_of_bops() -> None:
    document = make_record().model_dump(mode="json")
    del document["uniform_costs"]
    document["budget_bops"] = document.pop("budgets")["bops"]
    document["uniform_8_8_bops"] = document.pop("uniform_8_8_cost")
    assert RunRecord.model_validate(document) == make_record()
    with pytest.raises(BudgetError, match="does not know what weights cost at w4a4"):
        make_record().uniform_cost(KINDS["size"], 4, 4)


def test_whether_a_search_is_finished() -> None:
    record = make_record(state="finished")
    assert record.is_search_for(SearchSettings(finish=True, reconstruct=True, reconstruct_iterations=5, device="cuda"))
    assert not make_record(state="interrupted").is_search_for(SearchSettings())
    for change in ({"trials": 301}, {"time_limit_seconds": 60}, {"eval_data": "photos"}, {"eval_recipes": 3}):
        assert not record.is_search_for(SearchSettings(**change))  # type: ignore[arg-type]


def test_when_only_what_follows_the_search_is_missing() -> None:
    score = ScoreRecord(kl_nats=0.1, sqnr_db=9, images=16)
    finished = {"w4a4": ImprovedEntry(recipe="finished/w4a4/recipe.json", images=7, score=score)}
    assert make_record(state="finished").only_lacks_improvement(SearchSettings(finish=True))
    assert not make_record(state="finished", finished=finished).only_lacks_improvement(SearchSettings(finish=True))
    both = SearchSettings(finish=True, reconstruct=True)
    assert make_record(state="finished", finished=finished).only_lacks_improvement(both)
    assert not make_record(state="interrupted").only_lacks_improvement(both)
    assert not make_record(state="finished").only_lacks_improvement(SearchSettings(finish=False))


def test_what_is_taken_over_from_an_earlier_run() -> None:
    score = ScoreRecord(
        kl_nats=0.1, agreement_percent=99, sqnr_db=9, images=16, top1_percent=90, top5_percent=99, labelled_images=540
    )
    entry = ImprovedEntry(recipe="reconstructed/w4a4/recipe.json", iterations=5, images=7, score=score)
    solved = ImprovedEntry(recipe="finished/w4a4/recipe.json", images=7, score=score)
    earlier = make_record(
        finished={"w4a4": solved}, reconstructed={"w4a4": entry}, full_precision=make_record().accuracy["w4a4"]
    )
    session = small_session()
    images = session.calibration_images("digits", 4, 0)
    inputs = RunInputs(session, resolve_space(load_space("bits_only"), session.traced.sites), "", images, images)
    same = new_record(SearchSettings(), session, session.costs, inputs, {}, earlier)
    assert (same.finished, same.reconstructed, same.accuracy, same.full_precision) == (
        earlier.finished,
        earlier.reconstructed,
        earlier.accuracy,
        earlier.full_precision,
    )
    other = new_record(SearchSettings(eval_data="photos"), session, session.costs, inputs, {}, earlier)
    assert (other.accuracy, other.full_precision) == ({}, None)
    for kept, had in ((other.finished["w4a4"], solved), (other.reconstructed["w4a4"], entry)):
        assert (kept.recipe, kept.iterations, kept.score.kl_nats) == (had.recipe, had.iterations, 0.1)
        assert (kept.score.metrics, kept.score.labelled_images) == ({}, None)
    assert new_record(SearchSettings(), session, session.costs, inputs, {}, None).finished == {}
