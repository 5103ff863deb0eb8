"""Options by the names that users give them, and the nearest name to a wrong one."""

from __future__ import annotations

import difflib

from lampq_onnx.config.fields import Field
from lampq_onnx.config.sections import FIELDS, SECTIONS
from lampq_onnx.errors import UsageError


def by_flag(flag: str) -> Field:
    """Find an option by its name on the command line, with underscores, or by its field if only one has that name.

    Raises:
        UsageError: there is none.
    """
    own = [field for field in FIELDS if field.same_as is None]
    found = [f for f in own if f.flag == flag] or [f for f in own if f.name == flag]
    if len(found) != 1:
        near = difflib.get_close_matches(flag, [f.flag for f in own], n=1)
        raise UsageError(f"unknown option {flag!r}", hint=f"did you mean {near[0]}?" if near else "")
    return found[0]


def nearest(word: str, inside: tuple[str, ...]) -> Field | str | None:
    """The option or table whose name is nearest to a word, those of the tables ``inside`` first; None: none is near."""
    own = [field for field in FIELDS if field.same_as is None]
    here: dict[str, Field | str] = {field.name: field for field in own if field.section in inside}
    everywhere: dict[str, Field | str] = {
        **{name: name for name in SECTIONS},
        **{f.name: f for f in own},
        **{f.flag: f for f in own},
    }
    for known in (here, everywhere):
        near = difflib.get_close_matches(word, known, n=1)
        if near:
            return known[near[0]]
    return None
