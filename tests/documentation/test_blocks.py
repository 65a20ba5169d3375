"""Blocks are read as they are written, and an output that a document does not show is told from one that it does."""

from __future__ import annotations

from tests.documentation.blocks import Block, blocks_of, commands_of, exchanges_of, matches

PAGE = """# A page

```sh
autoq sites  # a comment
autoq search \\
    --trials 3
```

```toml title="my space.toml"
bits = 4
```

```sh title="not run by the tests: needs the network"
autoq sites --model vit
```
"""


def test_blocks_have_their_title_and_place() -> None:
    first, second, third = blocks_of(PAGE)
    assert (first.language, first.title, first.file, first.reason, first.line) == ("sh", "", None, None, 4)
    assert second == Block("toml", "my space.toml", "bits = 4\n", 10)
    assert second.file == "my space.toml"
    assert (third.file, third.reason) == (None, "needs the network")


def test_commands_go_on_after_a_backslash() -> None:
    assert [command.split() for command in commands_of(blocks_of(PAGE)[0].code)] == [
        ["autoq", "sites", "#", "a", "comment"],
        ["autoq", "search", "--trials", "3"],
    ]


def test_an_output_belongs_to_its_command() -> None:
    assert exchanges_of("$ one\nfirst\nsecond\n$ two\n") == [("one", "first\nsecond\n"), ("two", "")]


def test_an_output_is_compared() -> None:
    assert matches("KL ...\nnats", "KL 0.1 nats\n")
    assert not matches("KL ... nats", "KL 0.1 bits")
    assert not matches("", "a warning")
    assert not matches("8.5", "875"), "a dot is a dot"
