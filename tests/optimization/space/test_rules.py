"""Rules, ties and spaces as data."""

from __future__ import annotations

from autoq.optimization.space import parse_space, rules

RULE = '[[rules]]\nscheme = "uniform"\nbits = [4, 8]\n'


def space(text: str) -> str:
    return f"schema_version = 1\n{text}"


def test_scalar_and_list_values() -> None:
    rule = parse_space(space('[[rules]]\nop = "linear"\nscheme = "uniform"\nbits = [4, 8]\n')).rules[0]
    assert rule.op == ("linear",)
    assert rule.choices == {"scheme": ("uniform",), "bits": (4, 8)}


def test_the_documented_example_is_a_space() -> None:
    example = [line[4:] for line in (rules.__doc__ or "").splitlines() if line.startswith("    ")]
    parsed = parse_space("\n".join(example))
    assert (len(parsed.rules), len(parsed.ties)) == (3, 1)


def test_fingerprint_ignores_name_and_description() -> None:
    plain = parse_space(space(RULE), "a")
    assert parse_space(space('description = "hello"\n' + RULE), "b").fingerprint == plain.fingerprint
    assert parse_space(space(RULE.replace("8", "7")), "a").fingerprint != plain.fingerprint
