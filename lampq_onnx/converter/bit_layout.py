"""How codes of b bits lie in bytes: fields that are looked up, and bytes that share their spare bits.

Fields: the bits of a code are split into fields of 4, 2 and 1 bits, each packed 2, 4 or 8 to a byte. A table of 256
rows turns each byte into the signed contributions of its fields.

Shared bytes, for 5 to 7 bits: most codes lie in the high bits of a byte of their own, and the other codes are spread
over the low bits that these bytes have to spare. With 7 bits, 7 bytes p hold 8 codes c: p_j = 2 c_j + s_j, with the
bits s_j such that (2 p_0 + 4 p_1 + ... + 128 p_6) mod 256 = 2 c_7. One product with a constant matrix thus gives the
codes that have no byte of their own, in the high bits as well, and nothing has to be masked or looked up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lampq_onnx.pairs import PAIR_ROWS, pairs_pay
from lampq_onnx.quantization import Grid, QuantizedWeight

FIELD_WIDTHS = (4, 2, 1)

FieldKey = tuple[Grid, int, int]
"""Grid, bits and field width: what a lookup table is for."""


def pack(codes: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """Pack values below 2^width, 8 / width to a byte, the first one lowest; the last byte is padded with zeros."""
    each = 8 // width
    flat = codes.reshape(-1)
    padded = np.zeros(-(-flat.size // each) * each, np.uint8)
    padded[: flat.size] = flat
    shifts = np.arange(each, dtype=np.uint8) * width
    packed: npt.NDArray[np.uint8] = np.bitwise_or.reduce(padded.reshape(-1, each) << shifts, axis=1)
    return packed


def field_table(grid: Grid, bits: int, width: int, shift: int) -> npt.NDArray[np.int8]:
    """[256, 8 / width]: what each field of a byte adds to the level; the top field carries the grid's offset."""
    fields = (np.arange(256)[:, None] >> (np.arange(8 // width) * width)) & (2**width - 1)
    step = 2 if grid is Grid.MID_RISE else 1
    offset = int(grid.level(np.zeros(1, np.uint8), bits)[0]) if shift + width == bits else 0
    table: npt.NDArray[np.int8] = (step * (fields << shift) + offset).astype(np.int8)
    return table


def pair_table(table: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """[65536, 16 / width]: the rows of both bytes of a little-endian pair, from the table of one byte."""
    pairs = np.arange(PAIR_ROWS)
    return np.concatenate([table[pairs & 255], table[pairs >> 8]], axis=1)


def paired_fields(weights: Iterable[QuantizedWeight]) -> set[FieldKey]:
    """Fields of exact storage that are looked up in pairs of bytes, see `pairs_pay`.

    ``weights`` are those that `shares_bytes` does not hold. Pairs halve the indices, which onnxruntime holds as int32
    and looks up one by one when the session is created.
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
        byte: which of the group.
        factor: power of two that the byte is multiplied by to bring the bits to their place.
        low, count: the bits, counted from the byte's lowest.
    """

    byte: int
    factor: int
    low: int
    count: int


LOANS: dict[int, tuple[tuple[Loan, ...], ...]] = {
    5: (
        (Loan(0, 8, 0, 3), Loan(1, 64, 0, 2)),
        (Loan(2, 8, 0, 3), Loan(3, 64, 0, 2)),
        (Loan(4, 8, 0, 3), Loan(1, 16, 2, 1), Loan(3, 32, 2, 1)),
    ),
    6: (tuple(Loan(byte, 4 ** (byte + 1), 0, 2) for byte in range(3)),),
    7: (tuple(Loan(byte, 2 ** (byte + 1), 0, 1) for byte in range(7)),),
}
"""Bits -> for each code without a byte of its own, where its bits are. The last code of 5 bits has bits in bytes whose
other spare bits belong to the codes before it, so codes are stored in this order."""


def bytes_in_group(bits: int) -> int:
    """Bytes that share their spare bits; they hold this many codes and ``len(LOANS[bits])`` more."""
    return {5: 5, 6: 3, 7: 7}[bits]


def codes_in_group(bits: int) -> int:
    """Codes of ``bits`` bits in `bytes_in_group` bytes."""
    return bytes_in_group(bits) + len(LOANS[bits])


def loan_matrix(bits: int) -> npt.NDArray[np.uint8]:
    """(codes without a byte, bytes in a group): its product with the bytes, mod 256, has the codes in the high bits."""
    matrix = np.zeros((len(LOANS[bits]), bytes_in_group(bits)), np.uint8)
    for row, loans in enumerate(LOANS[bits]):
        for loan in loans:
            matrix[row, loan.byte] = loan.factor
    return matrix


def share_bytes(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Pack codes of 5 to 7 bits so that bytes share their spare bits.

    Args:
        codes: (n,) below 2^bits; n a multiple of `codes_in_group`.

    Returns:
        (bytes in a group, n / codes in a group): column c holds the codes c, c + columns, c + 2 columns, ...
    """
    own = bytes_in_group(bits)
    spare = 8 - bits
    rows = codes.reshape(codes_in_group(bits), -1)
    packed: npt.NDArray[np.uint8] = rows[:own] << np.uint8(spare)
    matrix = loan_matrix(bits).astype(np.int64)
    for row, loans in enumerate(LOANS[bits]):
        # The product with these spare bits at zero. All factors are multiples of 2^spare, so nothing is carried over.
        known = (matrix[row] @ packed.astype(np.int64)) >> spare
        rest = (rows[own + row] - known) % 2**bits
        for loan in loans:
            place = loan.factor.bit_length() - 1 + loan.low - spare
            packed[loan.byte] |= (((rest >> place) & (2**loan.count - 1)) << loan.low).astype(np.uint8)
    return packed


def shares_bytes(weight: QuantizedWeight) -> bool:
    """Whether exact storage can hold the weight in bytes that share their spare bits: groups run over its inputs."""
    return (
        weight.bits in LOANS
        and weight.grid is Grid.MID_TREAD
        and weight.codes.size > 0
        and weight.codes.shape[1] % codes_in_group(weight.bits) == 0
    )
