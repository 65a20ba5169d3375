"""What is kept of recipes that begin alike, for how long, and that it never takes more memory than it may."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from autoq.graph.stages import State
from autoq.scoring import prefix_cache
from autoq.scoring.prefix_cache import PrefixCache

STATE_BYTES = 40


def state(value: float = 0.0) -> State:
    """Ten floats and a size."""
    return (torch.full((10,), value), 7)


def meet(cache: PrefixCache, recipe: str, batches: int = 1) -> list[int]:
    """Evaluate a recipe whose stages are quantized as its letters say; from which stage each batch had to be run."""
    path = cache.path(recipe)
    firsts = []
    for batch in range(batches):
        first, start = cache.longest(batch, path)
        assert (start is None) == (first == 0)
        firsts.append(first)
        for stage in range(first, len(path)):
            cache.offer(batch, path, stage, state())
    return firsts


def test_a_prefix_has_one_number() -> None:
    cache = PrefixCache(0)
    one, same, other, late = (cache.path(recipe) for recipe in ("abc", "abc", "xbc", "abx"))
    assert one == same
    assert not set(one) & set(other), "a stage is known by all that lies before it"
    assert late[:2] == one[:2]
    assert late[2] not in {*one, *other}
    assert cache.path("a") == one[:1], "recipes may be of any length"


def test_nothing_is_kept_at_the_first_meeting() -> None:
    cache = PrefixCache(1 << 20)
    assert meet(cache, "abcd") == [0]
    assert cache.statistics.bytes_held == 0
    assert meet(cache, "abxx") == [0]
    assert cache.statistics.bytes_held == 2 * STATE_BYTES, "of the second recipe, what it shares with the first"
    assert meet(cache, "abyy") == [2]
    assert cache.statistics.bytes_held == 2 * STATE_BYTES
    assert meet(cache, "xbxx") == [0]


def test_the_last_stage_is_always_run() -> None:
    cache = PrefixCache(1 << 20)
    assert [meet(cache, "abc") for _ in range(3)] == [[0], [0], [2]]
    assert cache.statistics.bytes_held == 2 * STATE_BYTES


def test_batches_are_kept_apart() -> None:
    cache = PrefixCache(1 << 20)
    meet(cache, "ab")
    meet(cache, "ab", batches=1)
    assert meet(cache, "ab", batches=2) == [1, 0], "only the first batch was run twice"
    assert meet(cache, "ab", batches=2) == [1, 1]


def test_the_kept_state_itself_is_returned() -> None:
    cache = PrefixCache(1 << 20)
    kept = state(3.0)
    for _ in range(2):
        path = cache.path("ab")
        cache.offer(0, path, 0, kept)
    assert cache.longest(0, path) == (1, kept)
    assert cache.longest(1, path) == (0, None)


def test_the_least_recently_used_goes_first() -> None:
    cache = PrefixCache(2 * STATE_BYTES)
    for recipe in ("a-", "a-", "b-", "b-"):
        meet(cache, recipe)
    assert meet(cache, "a-") == [1], "used again, so that b is the older one"
    for _ in range(2):
        meet(cache, "c-")
    assert cache.statistics.bytes_held == 2 * STATE_BYTES
    assert meet(cache, "a-") == [1]
    assert meet(cache, "c-") == [1]
    assert meet(cache, "b-") == [0]


def test_use_of_a_late_state_counts_for_those_before_it() -> None:
    cache = PrefixCache(3 * STATE_BYTES)
    for recipe in ("ab-", "ab-", "c-", "c-", "ab-", "d-", "d-"):  # d drives one out
        meet(cache, recipe)
    assert meet(cache, "ax-") == [1]
    assert meet(cache, "c-") == [0]


def test_what_does_not_fit_drives_nothing_out() -> None:
    cache = PrefixCache(STATE_BYTES)
    for _ in range(2):
        meet(cache, "a-")
    for _ in range(2):
        cache.offer(0, cache.path("b-"), 0, (torch.zeros(11),))
    assert meet(cache, "a-") == [1]


def test_a_view_takes_the_memory_of_what_it_is_a_view_of() -> None:
    whole = torch.zeros(100)
    for kept, size in (((whole[:1], whole[1:2], 3), 400), ((whole[:1], torch.zeros(1)), 404), ((5,), 0)):
        cache = PrefixCache(1 << 20)
        for _ in range(2):
            cache.offer(0, cache.path("ab"), 0, kept)
        assert cache.statistics.bytes_held == size


def decode(cache: PrefixCache, recipe: str, encoded: Tensor) -> int:
    """Evaluate a recipe whose first stage makes ``encoded``, which later ones return beside ten floats of their own."""
    path = cache.path(recipe)
    first, _ = cache.longest(0, path)
    for stage in range(first, len(path)):
        cache.offer(0, path, stage, (encoded, *state()) if stage else (encoded,))
    return first


def test_memory_that_states_share_counts_once() -> None:
    encoded = torch.zeros(1000)
    cache = PrefixCache(10 * (encoded.nbytes + STATE_BYTES))
    assert [decode(cache, recipe, encoded) for recipe in ("abcdef", "abcdef", "abcdex", "abcxef")] == [0, 0, 5, 3]
    assert cache.statistics.bytes_held == encoded.nbytes + 4 * STATE_BYTES


def test_every_stage_of_a_decoder_is_kept_where_its_encoders_output_fits_once_a_recipe() -> None:
    encoded = torch.zeros(1000)
    one = encoded.nbytes + 5 * STATE_BYTES  # the last stage counts, too
    for most_bytes, first in ((2 * one, 5), (one, 4)):
        cache = PrefixCache(most_bytes)
        assert [decode(cache, "abcdef", encoded) for _ in range(3)] == [0, 0, first]


@given(
    most=st.integers(0, 1000),
    offers=st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 7), max_size=4)), max_size=40),
)
def test_states_that_share_memory_never_take_more_than_they_may(most: int, offers: list[tuple[int, list[int]]]) -> None:
    storages = [torch.zeros(4 + 10 * number) for number in range(8)]
    cache = PrefixCache(most)
    for batch, parts in offers:
        for _ in range(2):
            cache.offer(batch, cache.path("ab" if parts else "xb"), 0, tuple(storages[part][1:] for part in parts))
        kept = {id(leaf._base): leaf._base for held, _ in cache._states.values() for leaf in held}  # type: ignore[union-attr]
        assert cache.statistics.bytes_held == sum(base.nbytes for base in kept.values()) <= most


def test_scarce_memory_holds_states_of_all_batches() -> None:
    """Were every stage kept, those of the last batches would drive out those of the first, and so on around."""
    batches, stages = 4, 12
    for recipes, first in ((2.0, 11), (1.0, 10), (0.5, 8), (0.25, 6)):
        cache = PrefixCache(int(recipes * batches * stages) * STATE_BYTES)
        for _ in range(4):
            firsts = meet(cache, "abcdefghijkl", batches)
        assert firsts == [first] * batches


def test_statistics() -> None:
    cache = PrefixCache(STATE_BYTES)
    assert cache.statistics.reused_share == 0
    for recipe in ("abc", "abx", "aby", "xyz"):
        meet(cache, recipe)
    found = cache.statistics
    # "ab" is kept in place of "a" when the second recipe is run; the third one starts from it.
    assert (found.stages_run, found.stages_reused) == (3 + 3 + 1 + 3, 2)
    assert found.reused_share == pytest.approx(2 / 12)
    assert found.bytes_held == found.most_bytes_held == STATE_BYTES


def test_prefixes_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "_MOST_PREFIXES", 5)
    cache = PrefixCache(1 << 20)
    assert [meet(cache, "abc") for _ in range(3)] == [[0], [0], [2]]
    meet(cache, "xyz")
    assert cache.statistics.bytes_held == 2 * STATE_BYTES
    assert [meet(cache, "abc") for _ in range(3)] == [[0], [0], [2]], "forgotten, and met again"
    assert cache.statistics.bytes_held == 2 * STATE_BYTES
    assert cache.statistics.most_bytes_held == 2 * STATE_BYTES


class Slow:
    """The same from its definition: a list of prefixes, the least recently used first."""

    def __init__(self, places: int, most_bytes: int) -> None:
        self._places, self._most_bytes = places, most_bytes
        self._seen: set[tuple[int, int]] = set()
        self._met: list[str] = []
        self._kept: list[tuple[int, str]] = []

    def meet(self, recipe: str, batches: int) -> list[int]:
        prefixes = [recipe[: end + 1] for end in range(len(recipe))]
        self._met += prefixes
        firsts = []
        for batch in range(batches):
            used = [(batch, prefix) for prefix in prefixes if (batch, prefix) in self._kept]
            first = len(used[-1][1]) if used else 0
            self._kept = [key for key in self._kept if key not in used] + used
            for prefix in prefixes[first:]:
                self._seen.add((batch, len(prefix)))
                again, last = self._met.count(prefix) > 1, prefix == recipe
                if again and not last and self._places and len(prefix) % self._stride(len(recipe)) == 0:
                    self._kept = [*self._kept, (batch, prefix)][-self._places :]
            firsts.append(first)
        return firsts

    def _stride(self, stages: int) -> int:
        """The least that lets all outputs of two recipes fit, if they are as large as those seen so far."""
        fits = (n for n in range(1, stages // 2) if 2 * len(self._seen) * STATE_BYTES <= n * self._most_bytes)
        return next(fits, max(1, stages // 2))


@given(
    recipes=st.lists(st.tuples(st.text("ab", min_size=6, max_size=6), st.integers(1, 3)), max_size=30),
    places=st.integers(0, 40),
    slack=st.integers(0, STATE_BYTES - 1),
)
def test_against_the_definition(recipes: list[tuple[str, int]], places: int, slack: int) -> None:
    most_bytes = places * STATE_BYTES + slack
    cache, slow = PrefixCache(most_bytes), Slow(places, most_bytes)
    stages = 0
    for recipe, batches in recipes:
        assert meet(cache, recipe, batches) == slow.meet(recipe, batches)
        stages += batches * len(recipe)
        found = cache.statistics
        assert found.bytes_held == sum(_bytes(kept) for kept, _ in cache._states.values())
        assert found.bytes_held <= found.most_bytes_held <= places * STATE_BYTES
        assert found.stages_run + found.stages_reused == stages


def _bytes(kept: State) -> int:
    return sum(leaf.nbytes for leaf in kept if isinstance(leaf, Tensor))
