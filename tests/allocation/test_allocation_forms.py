"""What forms take, against what the converter writes."""

from __future__ import annotations

import numpy as np
import pytest

from lampq_onnx.allocation.forms import pair_table_bytes
from lampq_onnx.converter.packing.bit_layout import field_table, pair_table, paired_fields
from lampq_onnx.quantization import Grid, QuantizedWeight


def tables(parameters: int, bits: int) -> int:
    """Bytes of the tables of pairs for one weight of so many parameters, none of which takes memory."""
    codes = np.broadcast_to(np.uint8(0), (1, parameters))
    weight = QuantizedWeight(codes, np.ones(1, np.float32), bits, Grid.MID_TREAD)
    return sum(pair_table(field_table(*key, 0)).nbytes for key in paired_fields([weight]))


@pytest.mark.parametrize("millions", [1, 16, 17, 60, 70, 260, 300])
def test_tables_of_byte_pairs_are_never_larger_than_counted(millions: int) -> None:
    parameters = millions * 10**6
    counted = pair_table_bytes(parameters)
    found = [tables(parameters, bits) for bits in range(1, 5)]
    assert max(found) <= counted <= sum(found)
    assert bool(counted) == any(found)
