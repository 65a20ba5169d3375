"""Streams of channels: which layers write and read each, and what is in the way of a rotation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torch import fx

from autoq.calibration.transforms.rotation.spaces import LayerChannels, LayerScale, StreamConstant
from autoq.graph.nodes import is_move

_T = TypeVar("_T")


@dataclass(frozen=True)
class Place:
    """Where a tensor holds a stream.

    Attributes:
        stream: number of the stream.
        width: its channels.
        axis: the axis that holds them, counted from the last.
        copies: how many tokens lie side by side on that axis.
        norms: LayerNorm nodes whose scale and shift, one after the other along the axis, were applied.
    """

    stream: int
    width: int
    axis: int
    copies: int = 1
    norms: tuple[str, ...] = ()


@dataclass
class Streams:
    """The streams of a model, as they are found.

    Attributes:
        writers: number of a stream, and a layer that writes to it.
        readers: the same of a layer that reads it.
        constants: the same of a constant in it.
        scales: the same of a multiplication of what is written to it.
        spoiled: streams that cannot be rotated, and the node that is in the way.
    """

    writers: list[tuple[int, LayerChannels]] = field(default_factory=list)
    readers: list[tuple[int, LayerChannels]] = field(default_factory=list)
    constants: list[tuple[int, StreamConstant]] = field(default_factory=list)
    scales: list[tuple[int, LayerScale]] = field(default_factory=list)
    spoiled: dict[int, fx.Node] = field(default_factory=dict)
    _parents: list[int] = field(default_factory=list)
    _combined: dict[fx.Node, set[fx.Node]] = field(default_factory=dict)

    def start(self) -> int:
        """Start a stream and return its number."""
        self._parents.append(len(self._parents))
        return self._parents[-1]

    def number_of(self, stream: int) -> int:
        """Return the number of the stream that this one has become part of."""
        while self._parents[stream] != stream:
            stream = self._parents[stream]
        return stream

    def join(self, streams: Sequence[int]) -> int:
        """Make streams one and return its number; what spoils one of them spoils them all."""
        first, *others = sorted({self.number_of(stream) for stream in streams})
        for other in others:
            self._parents[other] = first
            if other in self.spoiled:
                self.spoiled.setdefault(first, self.spoiled[other])
        return first

    def spoil(self, stream: int, by: fx.Node) -> None:
        """Note a node that takes a stream's channels as they are."""
        self.spoiled.setdefault(self.number_of(stream), by)

    def add_constant(self, stream: int, source: fx.Node, axis: int, by: fx.Node) -> None:
        """Note a constant that a node combines with a stream, and the constant's axis of channels."""
        self.constants.append((stream, StreamConstant(source.name, axis)))
        self._combined.setdefault(source, set()).add(by)

    def settle(self) -> None:
        """Spoil streams with a constant that something else reads too, or that has channels on two axes."""
        uses: dict[str, set[tuple[int, int]]] = defaultdict(set)
        for stream, constant in self.constants:
            uses[constant.node].add((self.number_of(stream), constant.axis))
        for source, combined in self._combined.items():
            strangers = [user for user in _final_users(source) if user not in combined]
            if strangers or len(uses[source.name]) > 1:
                for stream, _ in uses[source.name]:
                    self.spoil(stream, (strangers or [source])[0])

    def grouped(self, items: Iterable[tuple[int, _T]]) -> dict[int, tuple[_T, ...]]:
        """Group one of the lists by stream."""
        found: dict[int, list[_T]] = defaultdict(list)
        for stream, item in items:
            found[self.number_of(stream)].append(item)
        return {stream: tuple(own) for stream, own in found.items()}


def _final_users(node: fx.Node) -> list[fx.Node]:
    """List what reads a constant, moves of it followed."""
    users: list[fx.Node] = []
    for user in node.users:
        if is_move(user) and user.args[0] is node:
            users += _final_users(user)
        else:
            users.append(user)
    return users
