"""Traced models that do not do what the original does are refused, and no others."""

from __future__ import annotations

import math
from unittest import mock

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from autoq.errors import TraceError
from autoq.graph import trace as tracing
from autoq.graph.trace import trace
from autoq.graph.verify import seeded, verify
from tests.graph.small import Structured, Weighted, tokens, traced


def test_a_value_that_tracing_fixed_is_refused_with_difference_and_output() -> None:
    class Stateful(Weighted):
        scale = 1.0

        def forward(self, x: Tensor) -> dict[str, object]:
            return {"hidden": x * 2, "aux": [self.layer(x) * 0 + self.scale]}

    module = Stateful()

    def export_and_change(*args: object) -> nn.Module:
        graph_module = tracing_export(*args)
        module.scale = 3.5
        return graph_module

    tracing_export = tracing.export  # type: ignore[attr-defined]
    with mock.patch.object(tracing, "export", export_and_change), pytest.raises(TraceError) as caught:
        traced(module)
    message = str(caught.value)
    assert message.startswith(
        "cannot trace Stateful: its output 'aux.0' differs from the traced model's by 2.5 (largest value 3.5) on 3 ima"
    )
    assert "\n" not in message


BATCH = tokens(3)
EXPECTED = {"logits": BATCH * 10, "index": torch.arange(3), "rest": (None, 4, torch.ones(3, dtype=torch.bool))}


def changed(**outputs: object) -> dict[str, object]:
    return EXPECTED | outputs


@pytest.mark.parametrize(
    ("output", "named"),
    [
        (changed(logits=BATCH * 10.01), "'logits' .* by 0.0"),
        (changed(logits=(BATCH * 10).double()), "'logits' .* by inf"),
        (changed(logits=BATCH[:, :5] * 10), "'logits' .* by inf"),
        (changed(logits=BATCH * math.nan), "'logits' .* by inf"),
        (changed(index=torch.tensor([0, 1, 3])), "'index' .* by 1 "),
        (changed(rest=(None, 5, EXPECTED["rest"][2])), "'rest.1' .* by inf"),  # type: ignore[index]
        (changed(rest=(None, 4, torch.tensor([True, True, False]))), "'rest.2' .* by 1 "),
        ({"logits": EXPECTED["logits"]}, "returns 5 values for 3 images and returned 1 while traced"),
    ],
)
def test_differences_beyond_rounding_are_refused(output: object, named: str) -> None:
    module = Structured(lambda _: EXPECTED)
    with pytest.raises(TraceError, match=named):
        verify(module, BATCH, output)


def test_equal_outputs_and_rounding_are_accepted() -> None:
    module = Structured(lambda _: EXPECTED)
    verify(module, BATCH, EXPECTED)
    rounded = BATCH * 10 * (1 + 1e-5)
    verify(module, BATCH, changed(logits=rounded))
    verify(module, BATCH, changed(logits=rounded, index=torch.tensor([0, 1, 3])))  # an index may follow from rounding
    with pytest.raises(TraceError, match="logits"):
        verify(module.double(), BATCH.double(), changed(logits=BATCH * 10 * 1.01))


def test_what_is_not_finite_may_be_equal() -> None:
    strange = torch.tensor([[math.nan, math.inf], [-math.inf, 1.0], [0.0, math.nan]])
    verify(Structured(lambda _: strange), BATCH, strange.clone())
    verify(Structured(lambda _: torch.empty(3, 0)), BATCH, torch.empty(3, 0))
    with pytest.raises(TraceError, match="differs from the traced model's by inf"):
        verify(Structured(lambda _: strange), BATCH, strange.nan_to_num(nan=0.0))


def test_half_precision_is_compared_by_its_own_rounding() -> None:
    class Attention(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x).unflatten(-1, (2, 4)).transpose(1, 2)
            return F.scaled_dot_product_attention(x, x, x).float()

    found = traced(Attention().bfloat16(), tokens().bfloat16())
    assert [site.name for site in found.sites] == ["layer", "qk", "softmax", "av", "output"]


def test_double_precision_in_the_middle_is_traced() -> None:
    class Double(Weighted):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weights", torch.rand(8, dtype=torch.float64))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.layer(x).double() * self.weights
            return y.softmax(-1), self.layer(y.float())

    module = Double()
    found = traced(module)
    assert [site.name for site in found.sites] == ["layer", "softmax", "layer@2", "output.0", "output.1"]
    for actual, expected in zip(found.graph_module(tokens(3)), module(tokens(3)), strict=True):
        assert torch.equal(actual, expected)
        assert actual.dtype == expected.dtype


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_inputs_need_not_be_floating(dtype: torch.dtype) -> None:
    class Embedded(Weighted):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 8)

        def forward(self, x: Tensor, mask: Tensor | None = None, **options: object) -> Tensor:
            assert mask is None
            assert not options
            return self.layer(self.embedding(x.long())).argmax(-1)

    module, batch = Embedded(), (torch.arange(14).reshape(2, 7) % 5).to(dtype)
    found = traced(module, batch)
    assert [site.name for site in found.sites] == ["layer"]
    assert torch.equal(found.graph_module(batch), module(batch))


def test_random_numbers_of_a_model_are_the_same_in_both_and_leave_the_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    module = Structured(lambda y: y + torch.rand_like(y))
    module.layer = torch.nn.utils.skip_init(nn.Linear, 8, 8)  # draws nothing
    torch.nn.init.ones_(module.layer.weight)
    torch.nn.init.zeros_(module.layer.bias)
    state = torch.get_rng_state()
    traced(module)
    assert torch.equal(torch.get_rng_state(), state)
    with seeded(torch.device("cpu")):
        torch.rand(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert expected.shape == (1,)


def test_the_original_keeps_its_buffers_and_the_input_its_values() -> None:
    class Counting(Weighted):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("mean", torch.zeros(8))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.mean = self.mean + 1
            x *= 2
            return self.layer(x) + self.calls + self.mean

    module, example = Counting(), tokens()
    mean = module.mean
    trace(module.eval(), example)
    assert module.calls == 0
    assert module.mean is mean
    assert mean.sum() == 0
    assert torch.equal(example, tokens())


def test_an_original_that_fails_on_random_images_is_refused_with_its_reason() -> None:
    class Picky(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            if not torch.compiler.is_compiling() and len(x) == 3:
                raise ValueError("three is too many.")
            return self.layer(x)

    with pytest.raises(TraceError, match=r"Picky does not run on 3 random images .*: three is too many;"):
        traced(Picky())
