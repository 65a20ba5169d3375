"""Settings, from options and from study files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from autoq.errors import SpaceError
from autoq.optimization.samplers import SAMPLERS
from autoq.runs.finish import FINISHING_IMAGES
from autoq.runs.search.settings import SearchSettings, load_study_file, make_settings


def test_defaults_are_the_command_that_needs_no_options() -> None:
    settings = make_settings({})
    assert (settings.model, settings.data, settings.budget_bops) == ("vit_digits", "digits", "w4a4")
    assert settings.labelled_data == "digits/val"


def test_labelled_images() -> None:
    assert make_settings({"data": "photos"}).labelled_data is None
    assert make_settings({"data": "photos", "eval_data": "more"}).labelled_data == "more"
    assert make_settings({"eval_data": "more"}).labelled_data == "more"


def test_where_recipes_are_evaluated() -> None:
    assert make_settings({}).executor_name == "local"
    assert make_settings({"workers": 2}).executor_name == "processes"
    assert make_settings({"executor": "processes"}).executor_name == "processes"
    shares = [
        ({}, 1),
        ({"workers": 3}, 3),
        ({"executor": "processes"}, 1),
        ({"workers": 3, "executor": "directory"}, 1),
    ]
    assert [make_settings(given).processes for given, _ in shares] == [count for _, count in shares]


def test_how_many_images_are_needed_at_once() -> None:
    assert make_settings({"calib_images": 12, "finish": False}).most_images == 12
    assert make_settings({"calib_images": 12, "finish": True}).most_images == FINISHING_IMAGES
    assert make_settings({"calib_images": 9999, "finish": True}).most_images == 9999
    assert make_settings({"finish": True, "reconstruct": True}).most_images == 1024
    assert [make_settings({"finish": False, key: True}).improves for key in ("finish", "reconstruct", "rotate")] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"trails": 3}, "option: unknown key 'trails'. Did you mean 'trials'?"),
        ({"trials": 0}, "option: trials: give 1 or more (got 0)"),
        ({"trials": "many"}, "trials"),
        ({"calib_images": 0}, "calib_images"),
        ({"seed": -1}, "seed"),
        ({"reconstruct_iterations": 0}, "reconstruct_iterations: give 1 or more (got 0)"),
        ({"reconstruct_images": 0}, "reconstruct_images"),
        ({"time_limit_seconds": 0}, "time_limit_seconds"),
        ({"time_limit_seconds": float("nan")}, "time_limit_seconds"),
        ({"sampler": "tpa"}, "option: sampler: unknown sampler 'tpa'; there are progressive, "),
        ({"sampler": "tpa"}, "Did you mean 'tpe'?"),
        ({"workers": 0}, "workers: give 1 or more (got 0)"),
        ({"executor": "process"}, "unknown executor 'process'; there are local, processes"),
        ({"address": "auto", "workers": 2}, "executor 'processes' has no address: leave it out, or use ray"),
        ({"executor": "local", "workers": 2}, "executor 'local' has 1 worker, not 2: use processes"),
        ({"observer": "fpcz"}, "best_percentile, fpcs. Did you mean 'fpcs'?"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], expected: str) -> None:
    with pytest.raises(SpaceError) as caught:
        make_settings(values, "option")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_study_file_has_the_keys_of_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text('budget_bops = "w3a3"\ntrials = 40\nsampler = "tpe"\npretrained = false\n')
    assert load_study_file(path) == {"budget_bops": "w3a3", "trials": 40, "sampler": "tpe", "pretrained": False}
    assert make_settings(load_study_file(path)).trials == 40


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trails = 3\n", "unknown key 'trails'. Did you mean 'trials'?"),
        ("trials = \n", "is not TOML"),
        ("trials = -2\n", "trials: give 1 or more (got -2)"),
        ('[search]\nmodel = "x"\n', "unknown key 'search'"),
    ],
)
def test_wrong_study_files(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text)
    with pytest.raises(SpaceError) as caught:
        load_study_file(path)
    assert expected in str(caught.value)
    assert f"study {str(path)!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_study_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "absent.toml", "No such file"), (tmp_path, "directory")):
        with pytest.raises(SpaceError, match=expected):
            load_study_file(path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpaceError, match="it is not UTF-8: save it as UTF-8"):
        load_study_file(tmp_path / "binary.toml")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        SearchSettings().trials = 3  # type: ignore[misc]


def test_every_sampler_is_offered() -> None:
    assert set(SAMPLERS) >= {"progressive", "tpe", "nsga2", "random"}
    for name in SAMPLERS:
        assert make_settings({"sampler": name}).sampler == name
