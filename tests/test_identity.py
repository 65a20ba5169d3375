"""What results depend on, told apart and described."""

from __future__ import annotations

from autoq.identity import describe_changes, fingerprint_of


def test_fingerprints() -> None:
    assert fingerprint_of({"seed": 0, "bits": [4, 8]}) == fingerprint_of({"bits": (4, 8), "seed": 0})
    assert fingerprint_of({"seed": 0}) != fingerprint_of({"seed": 1})
    # Banks on disk are recognised by it.
    assert fingerprint_of({"seed": 0}) == "de7d7744ccd7722e"


def test_changes() -> None:
    old = {"seed": 0, "bits": [4], "gone": 1}
    assert describe_changes(old, {"seed": 0, "bits": (4,)}) == ""
    assert describe_changes(old, {"seed": 1, "bits": [5]}) == "seed (was 0, is 1), bits (was [4], is [5])"
    assert describe_changes(old, {"name": "x"}) == "name (was None, is 'x')"
    assert describe_changes(old, {"seed": 0}, ["gone", "seed"]) == "gone (was 1, is None)"
    assert describe_changes({}, {}) == ""


def test_only_the_entries_of_an_object_that_differ_are_named() -> None:
    old = {"seed": 0, "fpcs": {"steps": 4, "spans": None, "gone": [1]}, "space": {"a": 1}}
    new = {"seed": 0, "fpcs": {"steps": 6, "spans": (0.5, 1), "new": "x"}, "space": None}
    assert describe_changes(old, new) == (
        "fpcs.steps (was 4, is 6), fpcs.spans (was None, is [0.5, 1]), fpcs.gone (was [1], is None), "
        "fpcs.new (was None, is 'x'), space (was {'a': 1}, is None)"
    )
    assert describe_changes(old, old) == ""


def test_digests_are_shortened() -> None:
    assert describe_changes({"a": "ab" * 32}, {"a": "cd" * 32}) == "a (was 'abababababab', is 'cdcdcdcdcdcd')"
    assert describe_changes({"a": "x" * 64}, {"a": "y"}) == f"a (was '{'x' * 64}', is 'y')"
