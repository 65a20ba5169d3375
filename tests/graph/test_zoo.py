"""What must hold for every model that traces, tried on many architectures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from autoq.graph.insert import QuantizedModel
from autoq.graph.saved_trace import dump_traced, load_traced
from autoq.graph.trace import trace
from tests.graph.zoo import ZOO, Example, build, example, images

BATCHES = (1, 2, 5)

WEIGHT_LAYERS = {"linear", "conv1d", "conv2d", "conv3d"}
PRODUCTS = {"matmul", "bmm", "mm", "addmm", "baddbmm", "einsum", "mv", "dot", "scaled_dot_product_attention"}
DISPATCHED_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "convolution"}
"""What every product comes down to below the autograd level; fused attention does two of them at once."""


@pytest.fixture(scope="module", params=ZOO)
def case(request: pytest.FixtureRequest) -> Example:
    return example(request.param)


def leaves(output: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


@torch.no_grad()
def run(model: nn.Module, batch: Tensor) -> list[Tensor]:
    return leaves(model(batch))


def assert_identical(actual: list[Tensor], expected: list[Tensor]) -> None:
    assert len(actual) == len(expected) > 0
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("batch", BATCHES)
def test_traced_output_equals_eager_output(case: Example, batch: int) -> None:
    expected = run(case.model, case.images(batch))
    actual = run(case.traced.graph_module, case.images(batch))
    if case.entry.exact:
        assert_identical(actual, expected)
    else:
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_outputs_differ_between_images(case: Example) -> None:
    """Else the equalities here would say nothing."""
    for output in run(case.model, case.images(2)):
        assert not torch.allclose(output[0], output[1])


def test_output_keeps_its_structure(case: Example) -> None:
    with torch.no_grad():
        expected, actual = case.model(case.images(2)), case.quantized(case.images(2))
    assert type(actual) is type(expected)
    assert pytree.tree_structure(actual) == pytree.tree_structure(expected)


def operator_name(node: fx.Node) -> str:
    return str(node.target.overloadpacket.__name__) if isinstance(node.target, torch._ops.OpOverload) else ""


def owner(node: fx.Node, parameters: dict[str, str]) -> str:
    """The module that a node of an exported program belongs to: that of its weight, or the one that ran it."""
    if operator_name(node) in WEIGHT_LAYERS:
        weight = parameters.get(getattr(node.args[1], "name", ""), "")
        if weight.endswith(".weight"):
            return weight.removesuffix(".weight")
    return str(list(node.meta["nn_module_stack"].values())[-1][0])


def test_every_product_of_the_exported_program_is_accounted_for(case: Example) -> None:
    expected: Counter[str] = Counter()
    parameters = case.program.graph_signature.inputs_to_parameters
    for node in case.program.graph.nodes:
        if operator_name(node) in WEIGHT_LAYERS | PRODUCTS:
            fused = operator_name(node) == "scaled_dot_product_attention"
            expected[owner(node, parameters)] += 2 if fused else 1
    for name in case.entry.unread:
        del expected[name]
    found: Counter[str] = Counter()
    for product in [site for site in case.traced.sites if site.macs] + list(case.traced.uncounted):
        name = product.name.partition("@")[0]
        found[name if product.op in WEIGHT_LAYERS else name.rpartition(".")[0]] += 1
    assert found == expected


class _CountDispatched(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        self.products += 2 if "scaled_dot_product" in name else name in DISPATCHED_PRODUCTS
        return func(*args, **(kwargs or {}))


def test_every_product_of_an_eager_run_is_accounted_for(case: Example) -> None:
    if case.entry.token_major:
        pytest.skip("an eager run has one fused operator")
    with _CountDispatched() as counter:
        run(case.model, case.images(2))
    read = counter.products - len(case.entry.unread)
    assert sum(site.macs > 0 for site in case.traced.sites) + len(case.traced.uncounted) == read


WITH_UNREAD_LEVELS = {"grid_detector"}


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Compute attention by its products, in every module that has a fused way."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_macs_agree_with_an_independent_counter(case: Example) -> None:
    """torch counts floating-point operations, two a MAC.

    What it counts for one more image is what autoq counts for one image. In a single run it also counts what does not
    depend on the images (the position tables of SwinV2, MaxViT and XCiT), which autoq computes once.
    """
    # The model itself would compute, and count, what nobody reads.
    model = case.traced.graph_module if case.name in WITH_UNREAD_LEVELS else case.model
    flops = []
    for batch in (2, 3):
        # What is counted of fused attention depends on the kernel that a processor gets: have it written out.
        with unfused_attention(), FlopCounterMode(display=False) as counter:
            model(case.images(batch))
        flops.append(counter.get_total_flops())
    assert flops[1] - flops[0] == 2 * case.traced.macs
    once = flops[0] - 2 * 2 * case.traced.macs
    assert (once > 0) == bool(case.traced.uncounted)
    assert once >= 0


def test_only_position_tables_are_uncounted(case: Example) -> None:
    tables = {"swinv2": ("cpb_mlp", 8), "maxvit": ("rel_pos.mlp", 16), "xcit": ("pos_embed", 1)}
    part, count = tables.get(case.name, ("", 0))
    assert len(case.traced.uncounted) == count
    for op in case.traced.uncounted:
        assert part in op.name
        assert op.reason == "computed once, not for every image"


def test_norms_and_softmaxes_are_sites(case: Example) -> None:
    for kind, module in (("layer_norm", nn.LayerNorm), ("softmax", nn.Softmax)):
        nodes = sum(operator_name(node) == kind for node in case.program.graph.nodes)
        fused = sum(operator_name(node) == "scaled_dot_product_attention" for node in case.program.graph.nodes)
        sites = [site for site in case.traced.sites if site.op == kind]
        assert len(sites) == nodes + (fused if kind == "softmax" else 0)
        assert all(site.macs == 0 and [o.name for o in site.operands] == ["input"] for site in sites)
        assert len(sites) >= sum(isinstance(part, module) for part in case.model.modules())


def test_names_are_unique(case: Example) -> None:
    names = [site.name for site in case.traced.sites]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["cait", "levit", "swin", "segformer", "yolos_sdpa", "grid_detector"])
def test_another_batch_is_traced_the_same(name: str) -> None:
    """Tokens, convolutions, windows, pyramids, fused attention, and values made in place."""
    case = example(name)
    again = trace(build(case.name), images(case.entry, 3, seed=1))
    assert again.sites == case.traced.sites
    assert again.uncounted == case.traced.uncounted
    assert list(again.edges) == list(case.traced.edges)


def test_weights_are_the_model_s_own(case: Example) -> None:
    parameters = dict(case.model.named_parameters())
    for site, operand in case.traced.operands():
        if operand.name == "weight":
            weight = case.traced.weight(site.name)
            assert tuple(weight.shape) == operand.shape
            named = parameters.get(f"{site.name}.weight")
            assert named is None or weight.data_ptr() == named.data_ptr()


def test_attention_products_have_two_sides_and_roles(case: Example) -> None:
    for site in case.traced.sites:
        names = [operand.name for operand in site.operands]
        if site.op in WEIGHT_LAYERS:
            assert names == ["input", "weight"]
        elif site.op == "output":
            assert names == ["input"]
        elif site.macs or site.op == "add":
            assert names == ["lhs", "rhs"]
        if site.macs and site.op not in WEIGHT_LAYERS:
            assert site.name.rpartition(".")[2] in ("qk", "av")
        if site.name.endswith(".av") and case.name != "cait":
            assert site.operand("lhs").producer == "softmax"
    roles = Counter(site.name.rpartition(".")[2] for site in case.traced.sites)
    assert roles["qk"] == roles["av"] == roles["softmax"]
    assert (roles["qk"] > 0) == (case.name not in ("convnext", "resnet18"))


class _Recorder(nn.Module):
    """A 32-bit quantizer: returns an equal tensor, and remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x.clone() * 1.0


def test_a_trace_that_was_written_down_is_the_same(case: Example) -> None:
    """Node for node, on the parameters of a model that was built anew, and so are its stages."""
    content = dump_traced(case.traced, case.model)
    loaded = load_traced(content, build(case.name))
    assert nodes_of(loaded.graph_module) == nodes_of(case.traced.graph_module)
    assert (loaded.sites, loaded.uncounted, loaded.edges) == (
        case.traced.sites,
        case.traced.uncounted,
        case.traced.edges,
    )
    assert loaded.output_names == case.traced.output_names
    batch = case.images(3)
    assert_identical(run(loaded.graph_module, batch), run(case.traced.graph_module, batch))
    codes = [stage.graph_module.code for stage in QuantizedModel(loaded).stages]
    assert codes == [stage.graph_module.code for stage in case.quantized.stages]


def nodes_of(graph_module: fx.GraphModule) -> list[tuple[object, ...]]:
    return [(n.op, n.name, n.target, str(n.args), str(n.kwargs), n.meta) for n in graph_module.graph.nodes]


def test_inserting_and_removing_quantizers_changes_nothing(case: Example) -> None:
    if case.entry.token_major:
        pytest.skip("a copy of an operand is laid out in another order, and its products are rounded differently")
    model = QuantizedModel(case.traced)
    batch = case.images(2)
    expected = run(case.traced.graph_module, batch)
    assert_identical(run(model, batch), expected)

    recorders = {key: _Recorder() for key in model.slots}
    assert set(recorders) == {(site.name, operand.name) for site, operand in case.traced.operands()}
    model.insert_(recorders)
    assert_identical(run(model, batch), expected)
    for site, operand in case.traced.operands():
        [seen] = recorders[site.name, operand.name].seen
        expected_shape = list(operand.shape)
        layout = operand.layout
        if not operand.is_weight:
            assert seen.numel() == 2 * torch.Size(operand.shape).numel()
            if layout.instances_per_image * 2 == seen.shape[0]:
                expected_shape[0] *= 2
        assert layout.ndim == seen.ndim
        assert list(seen.shape) == expected_shape

    model.remove_()
    assert all(slot.quantizer is None for slot in model.slots.values())
    assert_identical(run(model, batch), expected)
    assert_identical(run(case.traced.graph_module, batch), expected)


def test_leading_entries_of_an_operand_belong_to_one_image_after_the_other(case: Example) -> None:
    """Another second image must change the second half of every operand, and nothing in the first."""
    if case.entry.token_major:
        pytest.skip("leading entries are tokens")
    seen = []
    for other in (1, 2):
        model = QuantizedModel(case.traced)
        recorders = {key: _Recorder() for key in model.slots}
        model.insert_(recorders)
        run(model, torch.cat([case.images(1), case.images(1, seed=other)]))
        seen.append(recorders)
    unchanged = []
    for site, operand in case.traced.operands():
        if not operand.is_weight:
            a, b = (recorders[site.name, operand.name].seen[0] for recorders in seen)
            instances = operand.layout.instances_per_image
            assert len(a) == 2 * instances
            assert torch.equal(a[:instances], b[:instances])
            if torch.equal(a[instances:], b[instances:]):
                unchanged.append(f"{site.name}:{operand.name}")
    # A class token has seen no image yet when it asks its first question, and an embedding of positions never sees one.
    seen_none = {
        "cait": [f"blocks_token_only.0.{operand}" for operand in ("attn.q:input", "attn.qk:lhs", "add:lhs")],
        "xcit": ["add:rhs", "cls_attn_blocks.0.attn.q:input", "cls_attn_blocks.0.attn.qk:lhs"],
    }
    assert unchanged == seen_none.get(case.name, [])


def test_a_quantizer_reaches_the_output(case: Example) -> None:
    class Halve(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2

    model, batch = QuantizedModel(case.traced), case.images(1)
    expected = run(model, batch)
    first, last = case.traced.sites[0], case.traced.sites[-1]
    for site in (first, last):
        key = (site.name, site.operands[-1].name)
        model.insert_({key: Halve()})
        assert any(not torch.equal(a, b) for a, b in zip(run(model, batch), expected, strict=True))
        model.remove_([key])
    assert_identical(run(model, batch), expected)


@torch.no_grad()
def test_stages_run_from_any_one_on(case: Example) -> None:
    model, batch = case.quantized, case.images(2)
    expected = run(model, batch)
    assert_identical(list(model.run(batch)), expected)
    states: list[tuple[object, ...]] = [(batch,)]
    for index in range(len(model.stages)):
        assert_identical(list(model.run(batch, index, states[index])), expected)
        states.append(model.run_stage(index, states[index]))
    assert_identical(leaves(states[-1]), expected)


def test_every_site_is_in_one_stage(case: Example) -> None:
    staged = [site for stage in case.quantized.stages for site in stage.sites]
    assert staged == [site.name for site in case.traced.sites]
    optional = {site.name for site in case.traced.sites if site.is_optional}
    assert [stage.name for stage in case.quantized.stages] == [
        next((site for site in stage.sites if site not in optional), "") for stage in case.quantized.stages
    ]


@torch.no_grad()
def test_a_single_tensor_is_kept_between_stages(case: Example) -> None:
    """A cut through a residual branch would keep two; a cut after each branch leaves stages short."""
    state: tuple[object, ...] = (case.images(1),)
    for index in range(len(case.quantized.stages) - 1):
        state = case.quantized.run_stage(index, state)
        assert sum(isinstance(value, Tensor) for value in state) == 1 or not case.entry.single
    assert len(case.quantized.stages) >= 6
    optional = {site.name for site in case.traced.sites if site.is_optional}
    assert max(len(set(stage.sites) - optional) for stage in case.quantized.stages) <= 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_traces_and_runs_on_a_gpu(case: Example) -> None:
    device = torch.device("cuda")
    model, batch = build(case.name).to(device), case.images(3).to(device)
    traced = trace(model, batch[:2])
    assert traced.sites == case.traced.sites
    quantized = QuantizedModel(traced)
    expected = run(model, batch)
    assert all(output.device.type == "cuda" for output in run(quantized, batch))
    torch.testing.assert_close(run(quantized, batch), expected, rtol=1e-3, atol=1e-3)
