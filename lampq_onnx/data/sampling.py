"""A seeded random choice of images."""

from __future__ import annotations

import numpy as np

from lampq_onnx.data.source import ImageSource
from lampq_onnx.errors import UsageError


def choose(source: ImageSource, count: int, seed: int) -> ImageSource:
    """Choose images without replacement; all of them if ``count`` is larger than the source.

    With labels, the choice takes one image per class in turn (a seeded order of classes, a seeded order inside
    each class), so class counts differ by at most one, unless a class runs out. The order is part of the
    result: a smaller count with the same seed gives a prefix.

    Raises:
        UsageError: ``count`` is not positive or ``seed`` is negative.
    """
    if count <= 0:
        raise UsageError(f"the number of images must be at least 1, not {count}")
    if seed < 0:
        raise UsageError(f"the seed must be at least 0, not {seed}")
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(source))
    if source.labels is not None:
        classes, members = np.unique(source.labels[shuffled], return_inverse=True)
        turn_of_class = random.permutation(len(classes))
        by_class = np.argsort(members, kind="stable")
        sizes = np.bincount(members, minlength=len(classes))
        rounds = np.empty(len(shuffled), dtype=np.int64)
        rounds[by_class] = np.arange(len(shuffled)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        shuffled = shuffled[np.lexsort((turn_of_class[members], rounds))]
    return source.subset(shuffled[:count])
