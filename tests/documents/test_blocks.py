"""Blocks are found and obeyed, and none is passed over in silence."""

from __future__ import annotations

import pytest

from tests.documents.blocks import Block, blocks_of, without_blocks
from tests.documents.reader import Reader

PAGE = """
Text
```sh
a \\
  b
```
<!-- file: x.json -->
```json
{}
```
1. item

    <!-- not run: needs a server -->
    ```sh
    c
      d
    ```
<!-- another comment -->
```
e
```
"""


def test_blocks_have_their_language_their_text_and_their_note() -> None:
    assert blocks_of(PAGE, "p.md") == [
        Block("p.md", 3, "sh", "a \\\n  b"),
        Block("p.md", 8, "json", "{}", file="x.json"),
        Block("p.md", 14, "sh", "c\n  d", skipped="needs a server"),
        Block("p.md", 19, "", "e"),
    ]
    assert without_blocks("a\n```sh\nb\n```\nc") == "a\nc"
    with pytest.raises(ValueError, match=r"p\.md:1: the block has no end"):
        blocks_of("```sh\na", "p.md")


def test_what_fails_and_what_cannot_be_run_is_said(beginner: Reader) -> None:
    beginner.do(Block("p.md", 1, "toml", "a = 1", file="a.toml"))
    beginner.do(Block("p.md", 2, "sh", "test $(cat a.toml | wc -l) = 1  # comment"))
    beginner.do(Block("p.md", 3, "text", "shown"))
    for block, said in (
        (Block("p.md", 4, "sh", "lampq-onnx no-such-command\ntouch later"), "No such command"),
        (Block("p.md", 5, "sh", "false | true"), "exit code 1"),
        (Block("p.md", 6, "python", "raise SystemExit(3)"), "exit code 3"),
        (Block("p.md", 7, "", "out"), "neither run nor saved"),
    ):
        with pytest.raises(AssertionError, match=said) as caught:
            beginner.do(block)
        assert f"p.md:{block.line}" in str(caught.value)
    assert [path.name for path in beginner.folder.iterdir()] == ["a.toml"]
