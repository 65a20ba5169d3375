"""Streams that are joined share what is known of them."""

from __future__ import annotations

import torch
from torch import fx

from autoq.calibration.transforms.rotation.spaces import LayerChannels, StreamConstant
from autoq.calibration.transforms.rotation.streams import Streams


def graph() -> dict[str, fx.Node]:
    """A constant that two sums read, one of them by way of a view."""
    made = fx.Graph()
    x = made.placeholder("x")
    constant = made.get_attr("constant")
    view = made.call_function(torch.ops.aten.view.default, (constant, [4]))
    first = made.call_function(torch.ops.aten.add.Tensor, (x, constant))
    second = made.call_function(torch.ops.aten.add.Tensor, (first, view))
    made.output(second)
    return {"constant": constant, "first": first, "second": second}


def test_joined_streams_are_one() -> None:
    streams = Streams()
    numbers = [streams.start() for _ in range(4)]
    streams.writers += [(number, LayerChannels(f"layer{number}", torch.arange(3)[None])) for number in numbers]
    assert streams.join([numbers[2], numbers[1]]) == streams.join([numbers[1], numbers[3]]) == 1
    assert [streams.number_of(number) for number in numbers] == [0, 1, 1, 1]
    assert {stream: len(found) for stream, found in streams.grouped(streams.writers).items()} == {0: 1, 1: 3}


def test_what_spoils_one_spoils_all() -> None:
    nodes, streams = graph(), Streams()
    numbers = [streams.start() for _ in range(3)]
    streams.spoil(numbers[2], nodes["first"])
    streams.spoil(numbers[2], nodes["second"])
    streams.join(numbers[1:])
    assert streams.spoiled[streams.number_of(numbers[1])] is nodes["first"]
    assert numbers[0] not in streams.spoiled


def test_a_constant_belongs_to_one_stream_alone() -> None:
    for axes, spoiled in (((0, 0), False), ((0, 1), True), ((0, None), True)):
        nodes, streams = graph(), Streams()
        number = streams.start()
        for axis, user in zip(axes, ("first", "second"), strict=True):
            if axis is not None:
                streams.add_constant(number, nodes["constant"], axis, by=nodes[user])
        streams.settle()
        assert (number in streams.spoiled) == spoiled
        assert streams.constants[0] == (number, StreamConstant("constant", 0))
