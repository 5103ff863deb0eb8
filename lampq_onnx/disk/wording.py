"""Say what is wrong with a value in this package's words, instead of pydantic's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import ErrorDetails

_KINDS = (
    ("int", "a whole number"),
    ("float", "a number"),
    ("decimal", "a number"),
    ("finite_number", "a finite number"),
    ("bool", "true or false"),
    ("string", "text"),
    ("path", "a path"),
    ("dict", "a table of names and values"),
    ("model", "a table of names and values"),
    ("tuple", "a list"),
    ("list", "a list"),
    ("set", "a list"),
    ("iterable", "a list"),
)
"""Prefixes of pydantic's error types, and what was expected."""

_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}

_SHOWN = 80
"""Most characters of a value in a message."""


def explain(problems: Sequence[ErrorDetails], limits: str = "") -> str:
    """Say what is wrong with one value, and what is allowed.

    Args:
        problems: everything that pydantic found about the value; several entries if several types are allowed.
        limits: bounds of a number, see `limits_of`; empty: the message gives the bound that is exceeded.
    """
    first = problems[0]
    kind, context = first["type"], first.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is not known"
    if kind in _BOUNDS:
        key, word = _BOUNDS[kind]
        return f"must be {limits or f'{word} {context[key]:g}'}, not {shown(first['input'])}"
    expected = list(dict.fromkeys(filter(None, map(_expected, problems))))
    wanted = joined(expected) if expected else "another value"
    if limits and expected in (["a whole number"], ["a number"], ["a finite number"]):
        wanted = f"{expected[0]} {limits}"
    return f"must be {wanted}, not {shown(first['input'])}"


def limits_of(metadata: Iterable[Any]) -> str:
    """Return the bounds of a number in words, from the metadata of its field; empty if there are none."""
    found: dict[str, float] = {}
    for item in metadata:
        found |= {key: getattr(item, key) for key in ("gt", "ge", "lt", "le") if getattr(item, key, None) is not None}
    low = f"above {_number(found['gt'])}" if "gt" in found else ""
    if "ge" in found:
        if "le" in found:
            return f"from {_number(found['ge'])} to {_number(found['le'])}"
        low = f"at least {_number(found['ge'])}"
    high = f"below {_number(found['lt'])}" if "lt" in found else ""
    if "le" in found:
        high = f"at most {_number(found['le'])}"
    return " and ".join(filter(None, (low, high)))


def shown(value: object) -> str:
    """Return a value for a message, with bounded length."""
    text = value if isinstance(value, str) else str(value)
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return repr(text) if isinstance(value, str) else text


def joined(words: Sequence[str]) -> str:
    """Join words with commas and "or"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:g}"


def _expected(problem: ErrorDetails) -> str:
    kind = problem["type"]
    if kind == "literal_error":
        return str(problem["ctx"]["expected"]).replace("'", "")
    return next((words for start, words in _KINDS if kind.startswith(start)), "")
