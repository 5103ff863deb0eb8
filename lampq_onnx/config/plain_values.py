"""Arguments of a model's constructor: numbers, true and false, text, and lists and tables of them.

They come as words of the command line, from TOML or from Python, and are the same values afterwards.
"""

from __future__ import annotations

import ast
import json
import math
import numbers
import warnings
from collections.abc import Mapping

_WORDS = {"true": True, "false": False, "none": None, "null": None}
_OPENING = ("[", "(", "{")
_DEEPEST = 8


def parse_plain(text: str) -> object:
    """Read a value from a word of text.

    Numbers, ``true``, ``false``, ``none``, lists like ``[2,2,6,2]``, ``(32,64)`` and ``32,64``, tables like
    ``{"a": 1}``, and quoted text are read as in JSON or Python. Everything else is text as it stands.

    >>> parse_plain("32,64"), parse_plain("[2, [6, 2]]"), parse_plain("True"), parse_plain("avg,max")
    ((32, 64), (2, (6, 2)), True, 'avg,max')

    Raises:
        ValueError: it starts like a list or a table and is none, or holds what is no plain value.
    """
    word = text.strip()
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    for read in (json.loads, _literal):
        try:
            return plain(read(word))
        except (SyntaxError, RecursionError, MemoryError, json.JSONDecodeError, _NotLiteral):
            continue
    if word.startswith(_OPENING):
        raise ValueError(
            f'{text} starts like a list or a table and cannot be read as one; quote words in it: ["a","b"]'
        )
    return text


class _NotLiteral(Exception):
    """Raised for text that is not a literal of Python."""


def _literal(word: str) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd number literals, which are text here
            value: object = ast.literal_eval(word)
    except (ValueError, TypeError) as error:  # TypeError: a table with a list as a key
        raise _NotLiteral from error
    if not isinstance(value, bool | int | float | str | list | tuple | dict):
        raise _NotLiteral  # sets, bytes, complex numbers, dots
    return value


def plain_arguments(arguments: object) -> dict[str, object]:
    """Check arguments by name; those that are None are left out: the constructor's default counts.

    Raises:
        ValueError: names the argument whose value is not plain.
    """
    if not isinstance(arguments, Mapping):
        raise ValueError(f"takes arguments by name, not a {type(arguments).__name__}")
    found = {}
    for key, value in arguments.items():
        if not isinstance(key, str):
            raise ValueError(f"takes arguments by name, not by {key!r}")
        try:
            if value is not None:
                found[key] = plain(value)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
    return found


def plain(value: object, depth: int = 0) -> object:
    """Convert a value to plain types; lists become tuples.

    Raises:
        ValueError: it is, or holds, something else, or a number that is not finite.
    """
    if depth > _DEEPEST:
        raise ValueError(f"lists within lists go deeper than {_DEEPEST}")
    if isinstance(value, bool | str) or (value is None and depth == 0):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise ValueError(f"takes finite numbers, not {value}")
        return float(value)
    if isinstance(value, list | tuple):
        return tuple(plain(item, depth + 1) for item in value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(item, depth + 1) for key, item in value.items()}
    what = "none within a list or a table" if value is None else f"{value!r} ({type(value).__name__})"
    raise ValueError(f"takes numbers, true, false, text, and lists and tables of them, not {what}")
