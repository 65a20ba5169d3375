"""PTQ4ViT."""

from __future__ import annotations

from autoq.methods import MethodOptions, create_method
from autoq.recipe import OperandConfig
from tests.methods.configured import WIDTHS, by_kind, traced_model, uniform


def test_configurations() -> None:
    symmetric = uniform(5, symmetric=True)
    assert by_kind(create_method("ptq4vit")) == {
        "image": uniform(8),
        "weight": uniform(3, symmetric=True),
        "layer input": symmetric,
        "query": symmetric,
        "key": symmetric,
        "value": symmetric,
        "attention map": OperandConfig(scheme="twin_uniform", bits=4),
        "gelu output": OperandConfig(scheme="twin_uniform", bits=5),
    }


def test_scales_are_chosen_by_the_output_of_layers() -> None:
    method = create_method("ptq4vit")
    assert (method.images, method.settings(3).observer, method.settings(3).seed) == (32, "fpcs", 3)


def test_published() -> None:
    """The image in floating point, a range a head, the patch embedding's weights a channel."""
    method = create_method("ptq4vit", MethodOptions(protocol="published"))
    kinds = by_kind(method)
    assert "image" not in kinds
    assert {kinds[kind].granularity for kind in ("query", "key", "value")} == {"head"}
    sites = method.sites(traced_model(), WIDTHS)
    layers = ("patch_embed.proj", "blocks.0.attn.qkv", "blocks.0.attn.proj", "head")
    assert [sites[site]["weight"].granularity for site in layers] == ["channel", "channel", "tensor", "tensor"]
    fpcs = method.settings(0).fpcs
    assert (fpcs.candidates, fpcs.steps, fpcs.spans, fpcs.twin_scales) == (100, 1, (0.01, 1.1881), "published")
    assert (fpcs.start, fpcs.result, fpcs.tied_rows) == ("observed", "last_step", True)
    assert fpcs.output_weights == "gradients"
    assert {kinds[kind].scheme for kind in ("attention map", "gelu output")} == {"twin_uniform_sum"}
