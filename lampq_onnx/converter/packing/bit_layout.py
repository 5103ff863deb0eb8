"""How codes of b bits lie in bytes: either in fields that are looked up, or in bytes that share their spare bits.

Fields: the bits of a code are split into fields of 4, 2 and 1 bits, packed 2, 4 or 8 to a byte. A table of 256 rows
turns each byte into the signed contributions of its fields.

Shared bytes, for 5 to 7 bits: most codes have a byte of their own, and the other codes lie in the spare bits of these
bytes. With 6 bits, for instance, 3 bytes hold 4 codes. With 5 and 6 bits, a code takes the low bits of its byte, and
the spare bits on top hold bits of the other codes. With 7 bits, 7 bytes p hold 8 codes c: p_j = 2 c_j + s_j, with the
bits s_j chosen such that (2 p_0 + 4 p_1 + ... + 128 p_6) mod 256 = 2 c_7. So one product with a constant vector gives
every eighth code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lampq_onnx.quantization import Grid, QuantizedWeight
from lampq_onnx.quantization.pairs import PAIR_ROWS, pairs_pay

FIELD_WIDTHS = (4, 2, 1)

FieldKey = tuple[Grid, int, int]
"""Grid, bits and field width: the key of a lookup table."""


def pack(codes: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """Pack values below 2^width, 8 / width to a byte, first one lowest; the last byte is padded with zeros."""
    each = 8 // width
    flat = codes.reshape(-1)
    padded = np.zeros(-(-flat.size // each) * each, np.uint8)
    padded[: flat.size] = flat
    shifts = np.arange(each, dtype=np.uint8) * width
    packed: npt.NDArray[np.uint8] = np.bitwise_or.reduce(padded.reshape(-1, each) << shifts, axis=1)
    return packed


def field_table(grid: Grid, bits: int, width: int, shift: int) -> npt.NDArray[np.int8]:
    """Compute what each field of a byte adds to the level, shape [256, 8 / width].

    The top field carries the grid's offset.
    """
    fields = (np.arange(256)[:, None] >> (np.arange(8 // width) * width)) & (2**width - 1)
    step = 2 if grid is Grid.MID_RISE else 1
    offset = int(grid.level(np.zeros(1, np.uint8), bits)[0]) if shift + width == bits else 0
    table: npt.NDArray[np.int8] = (step * (fields << shift) + offset).astype(np.int8)
    return table


def pair_table(table: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Build the table for both bytes of a little-endian pair from that of one byte, shape [65536, 16 / width]."""
    pairs = np.arange(PAIR_ROWS)
    return np.concatenate([table[pairs & 255], table[pairs >> 8]], axis=1)


def paired_fields(weights: Iterable[QuantizedWeight]) -> set[FieldKey]:
    """Return the fields of exact storage that are looked up in pairs of bytes, see `pairs_pay`.

    ``weights`` are those for which `shares_bytes` is false. Pairs halve the number of indices, which onnxruntime holds
    as int32 and looks up one by one when the session is created.
    """
    totals: Counter[FieldKey] = Counter()
    for weight in weights:
        for width in FIELD_WIDTHS:
            if weight.bits < 8 and weight.bits & width:
                totals[weight.grid, weight.bits, width] += weight.codes.size * width // 8
    return {key for key, total in totals.items() if pairs_pay(key[2], total)}


@dataclass(frozen=True)
class Loan:
    """Spare bits of one byte that hold part of a code.

    Attributes:
        byte: index of the byte in its group.
        low: position of the lowest of the bits in the byte, from 0.
        count: number of bits.
        place: position in the code of the lowest bit that they hold.
    """

    byte: int
    low: int
    count: int
    place: int


LOANS: dict[int, tuple[tuple[Loan, ...], ...]] = {
    5: (
        (Loan(0, 5, 3, 2), Loan(2, 6, 2, 0)),
        (Loan(1, 5, 3, 2), Loan(3, 6, 2, 0)),
        (Loan(4, 5, 3, 2), Loan(2, 5, 1, 1), Loan(3, 5, 1, 0)),
    ),
    6: ((Loan(0, 6, 2, 4), Loan(1, 6, 2, 2), Loan(2, 6, 2, 0)),),
}
"""Width in bits -> for each code without a byte of its own, the places of its bits."""

PRODUCT_BITS = 7
"""Width whose codes without a byte of their own come from a product. Single bits of seven bytes would need a mask and a
shift each."""

SHARED_BITS = (*LOANS, PRODUCT_BITS)


def product_factors() -> npt.NDArray[np.uint8]:
    """Return factors (1, 7) whose product with a group of bytes is twice the code without a byte.

    The product is taken modulo 256; the group is one of width `PRODUCT_BITS`.
    """
    return (2 ** np.arange(1, 8)).astype(np.uint8)[None]


def bytes_in_group(bits: int) -> int:
    """Return how many bytes share their spare bits."""
    return {5: 5, 6: 3, 7: 7}[bits]


def codes_in_group(bits: int) -> int:
    """Return how many codes of ``bits`` bits `bytes_in_group` bytes hold."""
    return bytes_in_group(bits) * 8 // bits


def share_bytes(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Pack codes of 5 to 7 bits so that bytes share their spare bits.

    Args:
        codes: codes (n,) below 2^bits; n is a multiple of `codes_in_group`.

    Returns:
        (bytes in a group, n / codes in a group): column c holds the codes c, c + columns, c + 2 columns, ...
    """
    own = bytes_in_group(bits)
    rows = codes.reshape(codes_in_group(bits), -1)
    if bits == PRODUCT_BITS:
        packed = rows[:own] << np.uint8(1)
        # The contribution of the codes themselves. The rest, below 128, is distributed to the bytes bit by bit.
        known = (product_factors().astype(np.int64)[0] @ packed.astype(np.int64)) >> 1
        rest = (rows[own] - known) % 2**bits
        for byte in range(own):
            packed[byte] |= ((rest >> byte) & 1).astype(np.uint8)
        return packed
    packed = rows[:own].copy()
    for code, loans in zip(rows[own:], LOANS[bits], strict=True):
        for loan in loans:
            packed[loan.byte] |= ((code >> loan.place) & (2**loan.count - 1)) << loan.low
    return packed


def shares_bytes(weight: QuantizedWeight) -> bool:
    """Whether exact storage can hold the weight in bytes that share their spare bits: groups run along its inputs."""
    return (
        weight.bits in SHARED_BITS
        and weight.grid is Grid.MID_TREAD
        and weight.codes.size > 0
        and weight.codes.shape[1] % codes_in_group(weight.bits) == 0
    )
