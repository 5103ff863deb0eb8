"""What forms take, against what the converter writes."""

from __future__ import annotations

import numpy as np
import pytest

from lampq_onnx.allocation.overhead import pair_bytes
from lampq_onnx.converter.packing.bit_layout import field_table, pair_table, paired_fields
from lampq_onnx.quantization import INTEGER_GRIDS, Grid, QuantizedWeight


def weight_on(grid: Grid, parameters: int, bits: int) -> QuantizedWeight:
    """A weight of so many parameters, none of which takes memory."""
    return QuantizedWeight(np.broadcast_to(np.uint8(0), (1, parameters)), np.ones(1, np.float32), bits, grid)


def tables(bits: int, *parameters: int) -> int:
    """Bytes of the tables of pairs for weights of so many parameters, one on each grid."""
    grids = [Grid.MID_RISE] if bits == 1 else INTEGER_GRIDS if bits <= 4 else [Grid.MID_TREAD]
    weights = [weight_on(grid, count, bits) for grid, count in zip(grids, parameters, strict=False)]
    return sum(pair_table(field_table(grid, own, width, 0)).nbytes for grid, own, width in paired_fields(weights))


@pytest.mark.parametrize("millions", [1, 16, 17, 60, 70, 260, 300])
@pytest.mark.parametrize("bits", range(1, 8))
def test_tables_of_byte_pairs_are_never_larger_than_counted(millions: int, bits: int) -> None:
    parameters = millions * 10**6
    counted = pair_bytes(bits, parameters)
    found = [tables(bits, parameters - other, other) for other in range(0, parameters // 2 + 1, parameters // 8)]
    assert max(found) <= counted <= 1.4 * max(found)
