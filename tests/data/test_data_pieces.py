"""Answers to pieces are joined in order."""

from __future__ import annotations

import numpy as np

from lampq_onnx.data.pieces import in_pieces


def test_no_piece_is_larger_than_asked_and_the_order_stays() -> None:
    images, sizes = np.arange(7, dtype=np.float32).reshape(7, 1, 1, 1), []

    def answer(piece: np.ndarray) -> np.ndarray:
        sizes.append(len(piece))
        return 2 * piece[:, 0, 0]

    assert in_pieces(answer, images, 3)[:, 0].tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert sizes == [3, 3, 1]
    assert in_pieces(answer, images, 16).shape == (7, 1)
