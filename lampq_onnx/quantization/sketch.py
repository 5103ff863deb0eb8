"""Sketches: a few numbers by which a weight matrix is recognized, whatever the name of its layer."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PROJECTIONS = 8

TOLERANCE = 0.02
"""Largest difference between sketches of the same matrix. Rounding to float16 gives at most about 5e-4; different
layers differ by about 1."""

DIGITS = 6

Sketch = tuple[float, ...]


def weight_sketch(matrix: npt.NDArray[np.float32]) -> Sketch:
    """Return |W|, and u^T W v / |W| for random signs u and v that depend only on the shape (outputs, inputs)."""
    outputs, inputs = matrix.shape
    norm = float(np.linalg.norm(matrix))
    random = np.random.default_rng((outputs, inputs))
    left = random.choice((-1.0, 1.0), (PROJECTIONS, outputs))
    right = random.choice((-1.0, 1.0), (PROJECTIONS, inputs))
    products = ((left @ matrix.astype(np.float64)) * right).sum(1) / (norm or 1.0)
    return tuple(float(f"{value:.{DIGITS}g}") for value in (norm, *products))


def same_weights(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether two sketches belong to the same matrix, up to rounding."""
    if len(first) != len(second) or not first:
        return False
    (norm, *ours), (other, *theirs) = first, second
    if abs(norm - other) > TOLERANCE * max(norm, other):
        return False
    return all(abs(a - b) <= TOLERANCE for a, b in zip(ours, theirs, strict=True))


def to_text(sketch: Sketch) -> str:
    """Write a sketch as text for a node's metadata."""
    return json.dumps(sketch)


def from_text(text: str) -> Sketch:
    """Read the text that `to_text` wrote."""
    return tuple(json.loads(text))
