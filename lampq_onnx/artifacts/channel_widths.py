"""Widths of the output channels of one layer, where they are not all the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, Strict, WithJsonSchema, model_validator

from lampq_onnx.disk.records import Record

MOST_WIDTHS = 4
"""Most widths in one layer. More of them gain nothing that can be measured, and make a plan hard to read."""

CHANNEL_BITS = tuple(range(1, 9))

SHORTEST_RUN = 3
"""Fewest consecutive channels that the text of an order writes as a run, first-last."""


def _widths(counts: dict[int, int]) -> dict[int, int]:
    wrong = [width for width in counts if width not in CHANNEL_BITS]
    if wrong:
        raise ValueError(f"widths of channels must be {CHANNEL_BITS[0]} to {CHANNEL_BITS[-1]} bits, not {wrong[0]}")
    used = {width: counts[width] for width in sorted(counts) if counts[width]}
    if not 1 <= len(used) <= MOST_WIDTHS:
        raise ValueError(f"a layer has 1 to {MOST_WIDTHS} widths, and {len(used)} have channels here")
    return used


def _read_order(value: Any) -> Any:
    """Read the text of an order; other values are checked by the type of the field."""
    if not isinstance(value, str):
        return value
    channels: list[int] = []
    for word in value.split():
        first, dash, last = word.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or len(word) > 20:
            raise ValueError(f"{word[:20]!r} is neither a channel nor a run of channels such as 8-15")
        start, stop = int(first), int(last or first)
        if not start <= stop < start + 2**20:
            raise ValueError(f"{word!r} is not a run of channels in ascending order")
        channels.extend(range(start, stop + 1))
    return channels


def write_order(order: Sequence[int]) -> str:
    """Write an order as text: channels and runs of channels, separated by blanks.

    >>> write_order((7, 0, 1, 2, 3, 5, 4))
    '7 0-3 5 4'
    """
    words: list[str] = []
    at = 0
    while at < len(order):
        end = at + 1
        while end < len(order) and order[end] == order[end - 1] + 1:
            end += 1
        if end - at < SHORTEST_RUN:
            end = at + 1
        words.append(str(order[at]) if end == at + 1 else f"{order[at]}-{order[end - 1]}")
        at = end
    return " ".join(words)


Counts = Annotated[dict[int, Annotated[int, Strict(), Field(ge=0)]], AfterValidator(_widths)]
Order = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    BeforeValidator(_read_order),
    PlainSerializer(write_order, return_type=str),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^[0-9]+(-[0-9]+)?( [0-9]+(-[0-9]+)?)*$"},
                {"type": "array", "items": {"type": "integer", "minimum": 0}},
            ]
        }
    ),
]


def mean_bits(bits: int, counts: Mapping[int, int] | None) -> float:
    """Return the average width of a layer's weights.

    Args:
        bits: width of the layer, if all output channels have the same.
        counts: width -> number of output channels; None: all have ``bits``.
    """
    if not counts:
        return float(bits)
    return sum(width * count for width, count in counts.items()) / sum(counts.values())


def bits_text(bits: int, counts: Mapping[int, int] | None) -> str:
    """Format the width of a layer's weights: the average and the span, if output channels differ.

    >>> bits_text(4, None), bits_text(5, {2: 64, 3: 32, 5: 32})
    ('4', '3.00 (2-5)')
    """
    if not counts or len(counts) == 1:
        return str(bits)
    return f"{mean_bits(bits, counts):.2f} ({min(counts)}-{max(counts)})"


class _Widths(Protocol):
    @property
    def weight_bits(self) -> int: ...
    @property
    def channel_bits(self) -> Mapping[int, int] | None: ...


class WithWidths:
    """Mixin of layers whose output channels may have widths of their own: `weight_bits` and `channel_bits`."""

    @property
    def mean_weight_bits(self: _Widths) -> float:
        """Average width of the weights."""
        return mean_bits(self.weight_bits, self.channel_bits)

    @property
    def bits_text(self: _Widths) -> str:
        """The width of the weights as text: average and span if output channels differ."""
        return bits_text(self.weight_bits, self.channel_bits)


def counts_text(counts: Mapping[int, int]) -> str:
    """Format how many output channels have each width, e.g. "64 channels of 2 bits, 32 of 3"."""
    parts = [f"{count} of {width}" for width, count in counts.items()]
    first, _, rest = parts[0].partition(" of ")
    return ", ".join([f"{first} channels of {rest} bits", *parts[1:]])


class ChannelWidths(Record):
    """Widths of a layer's output channels: how many have each width, and in which order they get them."""

    counts: Counts = Field(description="width in bits, 1 to 8 -> number of output channels; at most 4 widths")
    order: Order = Field(
        description="all output channels, the cheapest first: the first ones get the narrowest width, the next ones "
        "the next wider one, and so on. Numbers and runs (8-15) separated by blanks, or a list"
    )

    @model_validator(mode="after")
    def _every_channel_once(self) -> Self:
        channels = sum(self.counts.values())
        if channels != len(self.order):
            raise ValueError(f"the counts are {channels} channels together, and the order has {len(self.order)}")
        if sorted(self.order) != list(range(channels)):
            raise ValueError(f"the order must hold each of the channels 0 to {channels - 1} once")
        return self

    @classmethod
    def from_rows(cls, bits: Sequence[int] | npt.NDArray[np.int8]) -> Self:
        """Return widths whose order lists channels of equal width as they come.

        Args:
            bits: width of each channel in the natural order, (channels,).
        """
        rows = np.asarray(bits, np.int8)
        widths, counts = np.unique(rows, return_counts=True)
        return cls(
            counts={int(width): int(count) for width, count in zip(widths, counts, strict=True)},
            order=tuple(int(row) for row in np.argsort(rows, kind="stable")),
        )

    @property
    def widest(self) -> int:
        """The largest width of an output channel."""
        return max(self.counts)

    @property
    def mean(self) -> float:
        """The average width. All channels have equally many weights, so it is that of the weights too."""
        return mean_bits(self.widest, self.counts)

    def row_bits(self) -> npt.NDArray[np.int8]:
        """Return the width of each output channel in its natural order, int8 (channels,)."""
        found = np.empty(len(self.order), np.int8)
        found[list(self.order)] = np.repeat(list(self.counts), list(self.counts.values()))
        return found
