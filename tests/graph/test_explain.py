"""Models that cannot be traced, and what autoq says about them."""

from __future__ import annotations

import inspect
import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autoq.errors import TraceError
from tests.graph.small import Weighted, traced


class Branch(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return self.layer(x)
        return x


class ItemSlice(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        length = int(x[0, 0, 0].item())
        return self.layer(x[:, :length])


class NumpyCall(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        y = np.sqrt(x.numpy())
        return self.layer(torch.from_numpy(y))


class FixedReshape(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(2, 48)
        return self.layer(x.reshape(2, 6, 8))


class FixedComparison(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 2:
            x = x * 2
        return self.layer(x)


class WrongWidth(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x[..., :4])


REFUSED = [
    (Branch, "if x.sum() > 0:", "the values of a tensor decide what is computed", "torch.where"),
    (ItemSlice, "length = int(x[0, 0, 0].item())", "the values of a tensor decide what is computed", ".item()"),
    (NumpyCall, "y = np.sqrt(x.numpy())", "numpy()", "use torch operations"),
    (FixedReshape, "x = x.reshape(2, 48)", "an operation fixes the batch size", "use x.shape[0] or -1"),
    (FixedComparison, "if len(x) == 2:", "an operation fixes the batch size", "use x.shape[0] or -1"),
    (WrongWidth, "return self.layer(x[..., :4])", "does not run on an input of shape [2, 6, 8]", "give it images"),
]


@pytest.mark.parametrize(("module", "code", "reason", "remedy"), REFUSED)
def test_one_line_names_the_line_at_fault(
    module: type[nn.Module], code: str, reason: str, remedy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TraceError) as caught:
        traced(module())
    message = str(caught.value)
    source, start = inspect.getsourcelines(module)
    [line] = [start + offset for offset, text in enumerate(source) if text.strip() == code]
    assert f" at {__file__}:{line}, `{code}`" in message
    assert reason in message
    assert remedy in message
    assert module.__name__ in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_a_batch_fixed_out_of_sight_is_explained_without_a_line() -> None:
    """The operation is a layer of torch's own, called by another of torch's own."""
    with pytest.raises(TraceError) as caught:
        traced(nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (2, 6, 8)), nn.Linear(8, 8)))
    assert str(caught.value) == (
        "cannot trace Sequential: an operation fixes the batch size; to find the operation, call the model on batches "
        "of 2 and of 3; use x.shape[0] or -1 in its place"
    )


def test_loggers_are_left_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    names = ("torch", "torch.fx.experimental.symbolic_shapes")
    before = [(logging.getLogger(n).level, logging.getLogger(n).propagate) for n in names]
    handlers = [list(logging.getLogger(n).handlers) for n in names]
    for module in (Branch, FixedReshape):
        with pytest.raises(TraceError):
            traced(module())
    assert before == [(logging.getLogger(n).level, logging.getLogger(n).propagate) for n in names]
    assert handlers == [list(logging.getLogger(n).handlers) for n in names]
    assert logging.root.manager.disable == logging.NOTSET
    # torch.__trace, a binary trace for torch's own tools, ignores logging.disable; it has no text and no handler.
    assert [record for record in caplog.records if record.name != "torch.__trace"] == []
