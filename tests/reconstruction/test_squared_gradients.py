from __future__ import annotations

import pytest
import torch

from autoq.graph.blocks import find_blocks
from autoq.reconstruction.squared_gradients import squared_gradients
from autoq.reconstruction.states import StateStore, find_layouts
from tests.reconstruction.small_model import A6, W2, calibrated, images, sites_of, tiny_model

DATA = images(6)


@pytest.mark.parametrize("number", [1, 2])
def test_squared_gradients_are_those_of_each_images_own_divergence(number: int) -> None:
    model = tiny_model()
    operands = calibrated(model, sites_of(model, W2, A6), DATA)
    blocks, layouts = find_blocks(model), find_layouts(model, DATA[:1])
    block = blocks[number]
    cpu = torch.device("cpu")

    def states(quantized: bool, last: int) -> list[torch.Tensor]:
        """After each block up to ``last``, the first ``last`` of which may be quantized."""
        found = []
        state: tuple[object, ...] = (DATA,)
        model.remove_()
        if quantized:
            operands.insert_(model)
        with torch.no_grad():
            for each in blocks[: last + 1]:
                state = model.run_stages(each.stages, state)
                found.append(state[-1])
        model.remove_()
        return found  # type: ignore[return-value]

    target, quantized = states(False, number)[-1], states(True, number)
    rest = range(block.last + 1, len(model.stages))
    expected = []
    for image in range(len(DATA)):  # one by one, by automatic differentiation of the written-out KL
        output = quantized[-1][image : image + 1].detach().requires_grad_()
        logits = []
        for start in (target[image : image + 1], output):
            state = tuple(
                start if isinstance(e.value, type(None)) and e.kind == "images" else 1 for e in layouts[block.last + 1]
            )
            for index in rest:
                state = model.run_stage(index, state)
            logits.append(state[0])
        p, q = (torch.softmax(each, -1) for each in logits)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad((p.detach() * (p.detach().log() - q.log())).sum(), output)
        expected.append(gradient.square())
    wanted = torch.cat(expected)
    inputs = StateStore(layouts[block.first], len(DATA))
    store = StateStore(layouts[block.last + 1], len(DATA))
    shaped = [e.kind for e in layouts[block.first]]
    inputs.put_(0, tuple(quantized[number - 1] if kind == "images" else len(DATA) for kind in shaped))
    store.put_(0, tuple(target if e.kind == "images" else len(DATA) for e in layouts[block.last + 1]))
    model.remove_()
    operands.insert_(model)
    model.remove_([key for key in model.slots if key[0] not in block.sites])
    found = squared_gradients(model, block, inputs, store).get(slice(0, len(DATA)), cpu)
    (weights,) = (value for value in found if isinstance(value, torch.Tensor))
    torch.testing.assert_close(weights, wanted / wanted.mean(), rtol=2e-3, atol=1e-4)
    assert float(weights.mean()) == pytest.approx(1, rel=1e-4)
