"""Figures in files."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from autoq.errors import InputError
from autoq.report.figures import new_axes, picture_path, quiet_figure, save_figure


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("SVG", b"<?xml")]
)
def test_the_suffix_says_the_format(tmp_path: Path, suffix: str, start: bytes) -> None:
    figure = quiet_figure(2, 1)
    save_figure(figure, tmp_path / f"picture.{suffix}")
    assert (tmp_path / f"picture.{suffix}").read_bytes().startswith(start)


@pytest.mark.parametrize("name", ["picture.gif", "picture"])
def test_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"png, svg, pdf"):
        save_figure(quiet_figure(2, 1), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_format_is_checked_before_there_is_a_picture() -> None:
    with pytest.raises(InputError, match=r"unknown format 'gif' of pictures; there are png, svg, pdf"):
        picture_path("runs", "pareto", "gif")


def test_axes_that_are_given_are_used() -> None:
    before = plt.get_fignums()
    given = quiet_figure(2, 1).subplots()
    assert new_axes(given, 3, 3) is given
    assert plt.get_fignums() == before, "pyplot was told of none"
    made = new_axes(None, 3, 2)
    assert made.figure.get_size_inches().tolist() == [3, 2]
    plt.close(made.figure)
