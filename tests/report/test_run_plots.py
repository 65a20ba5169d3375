"""How a search went, and a recipe's bits by block."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoq.recipe import OperandConfig
from autoq.report import RunSummary
from autoq.report.figures import quiet_figure
from autoq.report.run_plots import block_bits, plot_bits, plot_history
from autoq.report.summary import SiteRow
from tests.report.synthetic import with_points

SITES = (
    SiteRow("layers.0.blocks.1.attn.qkv", "linear", 8, ("input", "weight")),
    SiteRow("layers.0.blocks.1.attn.qk", "matmul", 8, ("lhs", "rhs")),
    SiteRow("layers.0.blocks.1.norm1", "layer_norm", 0, ("input",)),
    SiteRow("head", "linear", 8, ("input", "weight")),
)


def uniform(bits: int) -> OperandConfig:
    return OperandConfig(scheme="uniform", bits=bits)


def test_bits_are_averaged_by_block_and_role() -> None:
    recipe = {
        SITES[0].name: {"input": uniform(4), "weight": uniform(3)},
        SITES[1].name: {"lhs": uniform(8), "rhs": uniform(5)},
    }
    assert block_bits(recipe, SITES) == {
        "layers.0.blocks.1": {"activations": 4, "weights": 3, "attention": 6.5},
        "head": {"activations": 32, "weights": 32},
    }
    normed = block_bits({**recipe, SITES[2].name: {"input": uniform(8)}}, SITES)
    assert normed["layers.0.blocks.1"]["activations"] == 6, "a norm that is quantized counts"


def test_bits_are_written_in_their_cells() -> None:
    axes = plot_bits(
        {SITES[0].name: {"input": uniform(4), "weight": uniform(3)}}, SITES[:1], quiet_figure(4, 2).subplots()
    )
    assert [text.get_text() for text in axes.texts] == ["3.0", "4.0", ""]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["layers.0.blocks.1"]


def test_the_least_so_far_never_rises(summary: RunSummary) -> None:
    axes = plot_history(summary, quiet_figure(4, 2).subplots())
    (line,) = axes.get_lines()
    losses = list(line.get_ydata())
    assert losses == sorted(losses, reverse=True)
    assert summary.best is not None
    assert losses[-1] == summary.best.loss
    assert line.get_xdata()[-1] == len(summary.points)


@pytest.mark.parametrize("is_empty", [True, False])
def test_nothing_and_no_loss_can_be_drawn(summary: RunSummary, is_empty: bool) -> None:
    perfect = replace(summary, points=tuple(replace(point, kl_nats=0.0) for point in summary.points))
    figure = quiet_figure(4, 2)
    axes = plot_history(with_points(summary, lambda _: False) if is_empty else perfect, figure.subplots())
    figure.draw_without_rendering()
    assert axes.get_yscale() == "linear", "no loss has a logarithm"
    assert len(axes.get_lines()) == (0 if is_empty else 1)
