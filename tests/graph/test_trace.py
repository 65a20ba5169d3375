"""Small modules, each with one thing that tracing must get right."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor, nn

from autoq.errors import RecipeError
from autoq.graph.insert import FixedTensor, QuantizedModel
from tests.graph.small import Weighted, tokens, traced


def test_a_batch_of_one_suffices() -> None:
    found = traced(nn.Linear(8, 8), tokens(1))
    assert found.graph_module(tokens(5)).shape == (5, 6, 8)


def test_a_layer_used_twice_has_two_names() -> None:
    class Twice(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            return self.layer(F.relu(self.layer(x)))

    found = traced(Twice())
    assert [site.name for site in found.sites] == ["layer", "layer@2"]
    assert [site.operand("input").producer for site in found.sites] == ["other", "relu"]


class Einsum(nn.Module):
    def __init__(self, equation: str) -> None:
        super().__init__()
        self.equation = equation

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum(self.equation, *[x] * (self.equation.count(",") + 1))


@pytest.mark.parametrize(
    ("equation", "macs"),
    [
        ("bnc,bmc->bnm", 6 * 6 * 8),
        (" bnc , bmc -> bmn ", 6 * 6 * 8),
        ("bnc,bnd->bcd", 8 * 8 * 6),
        ("bnc,bnc->bn", 6 * 8),
        ("bnc,bmd->bnd", 6 * 8 * 6 * 8),
    ],
)
def test_an_einsum_of_two_is_a_site(equation: str, macs: int) -> None:
    [site] = traced(Einsum(equation)).sites
    assert (site.name, site.op, site.macs) == ("einsum", "einsum", macs)
    assert [operand.name for operand in site.operands] == ["lhs", "rhs"]


@pytest.mark.parametrize(
    ("equation", "reason"),
    [
        ("bnc,bmd", "computed once, not for every image"),  # without an arrow, b is summed over
        ("...nc,...mc->...nm", "an einsum with an ellipsis is not analysed"),
        ("bnc,bmc,bmd->bnd", "an einsum of 3 operands is no product of two"),
    ],
)
def test_other_einsums_are_reported(equation: str, reason: str) -> None:
    found = traced(Einsum(equation))
    assert found.sites == ()
    assert [(op.name, op.op, op.reason) for op in found.uncounted] == [("einsum", "einsum", reason)]


def test_an_einsum_without_an_arrow_keeps_the_letters_that_occur_once() -> None:
    class Projection(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 5))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bnc,cd", x, self.weight)

    [site] = traced(Projection()).sites
    assert site.macs == 6 * 8 * 5
    assert [operand.producer for operand in site.operands] == ["other", "parameter"]


def test_a_product_across_images_is_no_site() -> None:
    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return (flat @ flat.T) @ flat

    reasons = [op.reason for op in traced(Mixing()).uncounted]
    assert reasons[0] == "it mixes the images of a batch"


def test_token_major_operands_are_not_taken_for_windows() -> None:
    """nn.MultiheadAttention works on (tokens, images, channels): the entries of one image are not neighbours."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    by_name = traced(Attention()).sites_by_name
    assert list(by_name) == ["attention", *(f"attention.{part}" for part in ("qk", "softmax", "av", "out_proj"))]
    for site in ("attention", "attention.out_proj"):
        layout = by_name[site].operand("input").layout
        assert (layout.instances_per_image, layout.instance_group_axis) == (1, None)
    assert by_name["attention.av"].operand("lhs").layout.instance_group_axis == -2


@pytest.mark.parametrize("activation", [nn.LayerNorm(8), nn.Softmax(-1), nn.GELU(), nn.Identity()])
@pytest.mark.parametrize("images_first", [True, False])
def test_the_order_of_images_is_told_from_values(activation: nn.Module, images_first: bool) -> None:
    class Flattened(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            x = x if images_first else x.transpose(0, 1)
            y = self.layer(activation(x).reshape(-1, 8))
            return y.reshape(-1, 6, 8) if images_first else y.reshape(6, -1, 8).transpose(0, 1)

    found = traced(Flattened())
    layout = found.sites_by_name["layer"].operand("input").layout
    assert layout.instances_per_image == (6 if images_first else 1)


@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_fused_attention_is_written_out(mask: str | None) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            lower = torch.ones(6, 6).tril()
            self.register_buffer("mask", lower.bool() if mask == "bool" else lower.log())

        def attend(self, x: Tensor, scale: float | None) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x, None if mask is None else self.mask, scale=scale)

        def forward(self, x: Tensor) -> Tensor:
            x = x.unflatten(-1, (2, 4)).transpose(1, 2)
            return self.attend(self.attend(x, None), 0.3)

    module = Attention()
    found = traced(module)
    assert [site.name for site in found.sites] == ["qk", "softmax", "av", "qk@2", "softmax@2", "av@2"]
    assert [site.macs for site in found.sites] == [2 * 6 * 6 * 4, 0, 2 * 6 * 6 * 4] * 2
    torch.testing.assert_close(found.graph_module(tokens(3)), module(tokens(3)))


def test_fused_attention_that_cannot_be_written_out_is_reported() -> None:
    class Causal(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    found = traced(Causal())
    assert found.sites == ()
    [op] = found.uncounted
    assert (op.name, op.op) == ("scaled_dot_product_attention", "scaled_dot_product_attention")
    assert torch.equal(found.graph_module(tokens()), Causal()(tokens()))


@pytest.mark.parametrize(
    ("module", "op"), [(nn.LSTM(8, 8, batch_first=True), "lstm"), (nn.ConvTranspose1d(6, 3, 2), "conv_transpose1d")]
)
def test_products_without_a_site_are_reported(module: nn.Module, op: str) -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor) -> Tensor:
            result = self.inner(x)
            return result[0] if isinstance(result, tuple) else result

    found = traced(First())
    [uncounted] = found.uncounted
    assert uncounted.op == op
    assert uncounted.name.startswith("inner")
    assert found.sites == ()


def test_producers_are_seen_through_scaling_by_parameters_and_numbers() -> None:
    class Scaled(Weighted):
        def __init__(self) -> None:
            super().__init__()
            self.gamma = nn.Parameter(torch.rand(8))
            self.more = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            parts = [F.gelu(x) * self.gamma, self.gamma * F.gelu(x), F.gelu(x) / 3, self.gamma / F.gelu(x)]
            return sum(layer(part) for layer, part in zip(self.more, parts, strict=True))

    sites = traced(Scaled()).sites
    assert [site.operand("input").producer for site in sites] == ["gelu", "gelu", "gelu", "other"]


def test_in_place_activations_do_not_reach_back_over_a_stage() -> None:
    class InPlace(Weighted):
        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return self.layer(F.relu(y, inplace=True)) + y

    module = InPlace()
    model = QuantizedModel(traced(module))
    assert torch.equal(model(tokens()), module(tokens()))


def test_outputs_that_hold_nothing_keep_their_place() -> None:
    class Structured(Weighted):
        def forward(self, x: Tensor) -> dict[str, object]:
            y = self.layer(x)
            return {"all": y, "nothing": None, "two": (y.sum(1), y.mean())}

    module = Structured()
    model = QuantizedModel(traced(module))
    with torch.no_grad():
        actual, expected = model(tokens()), module(tokens())
    assert isinstance(actual, dict)
    assert list(actual) == list(expected)
    assert actual["nothing"] is None
    assert torch.equal(actual["two"][1], expected["two"][1])
    assert len(model.run(tokens())) == 3


def test_unknown_sites_and_operands_are_refused_with_the_nearest_name() -> None:
    model = QuantizedModel(traced(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))))
    with pytest.raises(RecipeError, match=r"^the model has no site '00'\. Did you mean '0'\?$"):
        model.insert_({("00", "input"): nn.Identity()})
    with pytest.raises(RecipeError, match=r"^site '0' has no operand 'lhs'; it has input, weight$"):
        model.insert_({("0", "input"): nn.Identity(), ("0", "lhs"): nn.Identity()})
    assert all(slot.quantizer is None for slot in model.slots.values())
    with pytest.raises(RecipeError):
        model.remove_([("nowhere", "input")])


def test_a_fixed_tensor_takes_a_weight_s_place() -> None:
    module = nn.Sequential(nn.Linear(8, 3, bias=False))
    model = QuantizedModel(traced(module))
    model.insert_({("0", "weight"): FixedTensor(torch.zeros(3, 8))})
    assert torch.equal(model(tokens()), torch.zeros(2, 6, 3))
    assert module[0].weight.abs().sum() > 0
