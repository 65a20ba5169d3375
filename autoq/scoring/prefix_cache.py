"""Stage outputs kept between recipes that quantize the first stages alike, so that only what differs is run."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from autoq.graph.stages import State

_MOST_PREFIXES = 1 << 16
"""Prefixes remembered, about a kilobyte each: two thousand recipes of a model with 12 blocks."""
_RECIPES = 2
"""Recipes whose stages should fit: in simulated hill climbs with scarce memory, more is reused than with 1 or 3."""


@dataclass(frozen=True)
class ReuseStatistics:
    """Counts of stages that a cache has made unnecessary so far.

    Attributes:
        stages_run: stages computed, each batch counted.
        stages_reused: stages whose output was there.
        bytes_held: memory of the kept outputs.
        most_bytes_held: the most that ever was.
    """

    stages_run: int
    stages_reused: int
    bytes_held: int
    most_bytes_held: int

    @property
    def reused_share(self) -> float:
        """Share of the stages that did not have to be run."""
        return self.stages_reused / max(1, self.stages_run + self.stages_reused)


class PrefixCache:
    """Outputs of stages by what is quantized up to there, batch by batch, in bounded memory.

    A prefix is a recipe's configuration of the stages up to one of them. Most prefixes are met once; so a stage's
    output is kept from the second recipe on that shares its prefix, and what was used least recently gives way.
    Memory that several outputs share, such as an encoder's output behind each stage of a decoder, counts once.

    Where memory is too small for all stages of two recipes, only every second, third, … stage is kept: batches are
    visited in turn, and each would drive out what the next recipe starts from.
    """

    def __init__(self, most_bytes: int) -> None:
        """Start empty; at most ``most_bytes`` of outputs are kept."""
        self._most_bytes = most_bytes
        self._prefixes: dict[tuple[int, Hashable], int] = {}
        self._met: list[int] = [0]
        self._states: OrderedDict[tuple[int, int], tuple[State, _Memory]] = OrderedDict()
        self._held = _Held()
        self._before: _Memory = {}
        self._sizes: dict[tuple[int, int], int] = {}
        self._recipe_bytes = self._most_held = self._run = self._reused = 0

    def path(self, signatures: Sequence[Hashable]) -> list[int]:
        """Return a number for each prefix of a recipe, equal for equal prefixes, and count the occurrence.

        After very many prefixes the cache is cleared, and numbers returned before are no longer valid.

        Args:
            signatures: what determines each stage's output, its input given.
        """
        if len(self._met) > _MOST_PREFIXES:
            self._prefixes.clear()
            self._states.clear()
            self._met, self._held = [0], _Held()
        path, prefix = [], 0
        for signature in signatures:
            prefix = self._prefixes.setdefault((prefix, signature), len(self._met))
            if prefix == len(self._met):
                self._met.append(0)
            self._met[prefix] += 1
            path.append(prefix)
        return path

    def longest(self, batch: int, path: Sequence[int]) -> tuple[int, State | None]:
        """Return the first stage that has to be run and the state before it; (0, None) if no prefix is cached."""
        kept = [(batch, prefix) for prefix in path if (batch, prefix) in self._states]
        if not kept:
            self._before = {}
            return 0, None
        for key in kept:  # the earlier ones too: a later recipe may branch off there
            self._states.move_to_end(key)
        first = path.index(kept[-1][1]) + 1
        self._reused += first
        state, self._before = self._states[kept[-1]]
        return first, state

    def offer(self, batch: int, path: Sequence[int], stage: int, state: State) -> None:
        """Offer the output of a stage, after that of the stage before it; it is kept if its prefix has occurred before.

        That of the last stage never is: no stage starts from it.
        """
        self._run += 1
        key, memory = (batch, path[stage]), _memory(state)
        added = sum(size for address, size in memory.items() if address not in self._before)
        self._recipe_bytes += added - self._sizes.get((batch, stage), 0)
        self._sizes[batch, stage], self._before = added, memory
        if stage + 1 == len(path) or self._met[path[stage]] < 2 or key in self._states:
            return
        if sum(memory.values()) > self._most_bytes or (stage + 1) % self._stride(len(path)):
            return
        self._states[key] = (state, memory)
        self._held.add(memory)
        while self._held.bytes > self._most_bytes:
            _, (_, freed) = self._states.popitem(last=False)
            self._held.remove(freed)
        self._most_held = max(self._most_held, self._held.bytes)

    def _stride(self, stages: int) -> int:
        """Choose the interval at which stages are kept, so that two recipes fit; it is at most half of the stages."""
        fitting = math.ceil(_RECIPES * self._recipe_bytes / max(1, self._most_bytes))
        return max(1, min(fitting, stages // 2))

    @property
    def statistics(self) -> ReuseStatistics:
        """Counts of stages that were run and that were reused."""
        return ReuseStatistics(self._run, self._reused, self._held.bytes, self._most_held)


_Memory = dict[int, int]
"""What a state takes up: bytes of each storage, by its address, which is its own as long as the state lives."""


class _Held:
    """Memory that some states hold together.

    Attributes:
        bytes: of all storages, each counted once.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._holders: Counter[int] = Counter()

    def add(self, memory: _Memory) -> None:
        """Count that of one more state."""
        self.bytes += sum(size for address, size in memory.items() if not self._holders[address])
        self._holders.update(memory.keys())

    def remove(self, memory: _Memory) -> None:
        """Count that of a state no more, which was added before."""
        self._holders.subtract(memory.keys())
        for address in [address for address in memory if not self._holders[address]]:
            del self._holders[address]
            self.bytes -= memory[address]


def _memory(state: State) -> _Memory:
    """Return what keeping ``state`` takes: a view keeps all of its base."""
    storages = [leaf.untyped_storage() for leaf in state if isinstance(leaf, Tensor)]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
