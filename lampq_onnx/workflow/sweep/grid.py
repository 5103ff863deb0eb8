"""The budgets and metrics that a sweep tries."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lampq_onnx.errors import UsageError

DEFAULT_METRICS = ("kl", "lampq", "uniform")
"""The default metric, the paper's, and the plain one."""

STEP = 0.5
MOST = 200
"""Most values in one list; each of them is a whole rounding and validation."""

_RANGE = re.compile(r"(\d+(?:\.\d+)?)\.\.(\d+(?:\.\d+)?)(?::(\d+(?:\.\d+)?))?")


def parse_bits(text: str) -> tuple[float, ...]:
    """Parse average weight bits from ``2.5..8`` (steps of 0.5), ``2..4:0.25``, ``2.5,3,4`` or a mix, ascending.

    >>> parse_bits("2.5..4,8")
    (2.5, 3.0, 3.5, 4.0, 8.0)

    Raises:
        UsageError: the text is not such a list, or has more than `MOST` values.
    """
    found: set[float] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        try:
            found.update(_steps(*match.groups()) if match else [float(part)])
        except ValueError:
            found.add(-1.0)
    if not found or len(found) > MOST or not all(1 <= bits <= 8 for bits in found):
        raise UsageError(
            f"--bits takes budgets from 1 to 8 such as 2.5..8, 2..4:0.25 or 2.5,3,4 (at most {MOST}), not {text!r}"
        )
    return tuple(sorted(found))


def budgets_of(bits: str | Sequence[float]) -> tuple[float, ...]:
    """Average weight bits from text or numbers, ascending, each once; see `parse_bits`.

    Raises:
        UsageError: budgets outside of 1 to 8, none, or more than `MOST`.
    """
    return parse_bits(bits if isinstance(bits, str) else ",".join(map(str, bits)))


def _steps(first: str, last: str, step: str | None) -> list[float]:
    low, high, width = float(first), float(last), float(step or STEP)
    if width <= 0 or high < low or (high - low) / width > MOST:
        raise ValueError(f"{first}..{last}:{step}")
    return [round(low + i * width, 6) for i in range(int((high - low) / width + 1e-9) + 1)]
