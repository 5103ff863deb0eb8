"""Budgets other than average bits, and how their amounts are parsed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lampq_onnx.disk.wording import shown
from lampq_onnx.errors import UsageError

_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30}
_SECONDS = {"ms": 1.0, "s": 1e3, "us": 1e-3}
_BYTES = {f"{prefix}b": factor for prefix, factor in _PREFIXES.items() if prefix != "t"}


_MOST = 1e18
"""Largest amount: the integer program counts in 64-bit integers."""


@dataclass(frozen=True)
class Limits:
    """What a file must not exceed; None: no limit.

    Attributes:
        bits: average weight bits over the layers that are not fixed; a layer in float counts 32.
        max_bytes: size of the whole file.
        max_ms: latency of the whole file in ms, as the latency table predicts it.
        max_bops: bit operations of all layers for one image: multiply-adds times weight bits times input bits.
        min_agreement: fraction of images whose top answer stays that of the float model, as the curve of the
            sensitivities predicts it.
    """

    bits: float | None = None
    max_bytes: int | None = None
    max_ms: float | None = None
    max_bops: float | None = None
    min_agreement: float | None = None

    @property
    def only_bits(self) -> bool:
        """Whether average bits are the only limit."""
        return all(v is None for v in (self.max_bytes, self.max_ms, self.max_bops, self.min_agreement))


def parse_size(text: str) -> int:
    """Parse bytes from ``4MB``, ``4MiB``, ``500kB`` or ``4000000B``; a number alone could mean any of them.

    Raises:
        UsageError: the text is not such a size.
    """
    return int(_amount(text, r"([kmg]?i?b|)", _BYTES, "a size", "4MB; the units are B, kB, MB, GB, KiB, MiB and GiB"))


def parse_latency(text: str) -> float:
    """Parse milliseconds from ``20ms``, ``0.02s`` or ``800us``.

    Raises:
        UsageError: the text is not such a latency.
    """
    return _amount(text, r"(ms|s|us|)", _SECONDS, "a latency", "20ms; the units are us, ms and s")


def parse_bops(text: str) -> float:
    """Parse bit operations from ``60G``, ``1.5T`` or a plain number.

    Raises:
        UsageError: the text is not such a number.
    """
    return _amount(text, r"([kmgt]?)", _PREFIXES, "a number of bit operations", "60G")


def _amount(text: str, unit: str, factors: dict[str, float], what: str, example: str) -> float:
    match = re.fullmatch(rf"([0-9]+(?:\.[0-9]*)?(?:e[0-9]+)?)\s*{unit}", text.strip().lower(), re.ASCII)
    if match is not None and match[2] not in factors and not match[2]:
        raise UsageError(f"{text!r} has no unit", hint=f"write it as in {example}")
    if match is None or match[2] not in factors or not 0 < float(match[1]) * factors[match[2]] < _MOST:
        raise UsageError(f"cannot read {shown(text)} as {what}", hint=f"write it as in {example}")
    return float(match[1]) * factors[match[2]]
