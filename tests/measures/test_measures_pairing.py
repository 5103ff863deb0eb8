"""Pairs of rows against all permutations."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from lampq_onnx.measures.pairing import cheapest_pairs, in_order_of


def test_no_permutation_is_cheaper() -> None:
    costs = np.random.default_rng(0).random((6, 5, 5))
    found = cheapest_pairs(costs)
    rows = np.arange(5)
    for image, pairs in zip(costs, found, strict=True):
        assert image[rows, pairs].sum() == min(image[rows, list(order)].sum() for order in permutations(rows))


def test_rows_that_are_equal_keep_their_place() -> None:
    assert cheapest_pairs(np.zeros((2, 4, 4))).tolist() == [[0, 1, 2, 3]] * 2


def test_shuffled_rows_come_back_in_order() -> None:
    random = np.random.default_rng(1)
    rows = random.normal(size=(3, 20, 7)).astype(np.float32)
    order = np.stack([random.permutation(20) for _ in rows])
    shuffled = np.take_along_axis(rows, order[..., None], 1) + np.float32(1e-3)
    assert np.allclose(in_order_of(rows, shuffled), rows + 1e-3, atol=1e-6)
