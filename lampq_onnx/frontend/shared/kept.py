"""Stores the results of finished steps between runs, so that a stopped run can resume."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from lampq_onnx.disk.cache import ArrayCache
from lampq_onnx.disk.codec import Tensors, decode, encode
from lampq_onnx.disk.records import Record
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink

Result = TypeVar("Result")

TREE = "tree"
"""Name of the array that holds the JSON of a result."""

_TENSORS = Tensors(
    torch.Tensor,
    to_numpy=lambda tensor: tensor.detach().cpu().contiguous().numpy(),
    place=lambda tensor: str(tensor.device),
    from_numpy=lambda array, place: torch.from_numpy(array.copy()).to(place),
)

_log = logging.getLogger(__name__)


class Kept:
    """Results of steps, stored under a key of everything they depend on.

    Args:
        store: where results are stored; None stores nothing, and every step runs.
        key: digest of everything that all steps from here on depend on.
        fresh: run every step again and replace its stored result.
        progress: told of steps whose result was stored.
    """

    def __init__(
        self,
        store: ArrayCache | None = None,
        key: str = "",
        *,
        fresh: bool = False,
        progress: ProgressSink = NO_PROGRESS,
    ) -> None:
        self._store = store
        self._key = key
        self._fresh = fresh
        self._progress = progress
        self._parts: list[str] = []

    def after(self, *facts: Record | str) -> Kept:
        """Results of steps that also depend on ``facts``."""
        words = [self._key, *(fact if isinstance(fact, str) else fact.model_dump_json() for fact in facts)]
        key = hashlib.sha256(json.dumps(words).encode()).hexdigest()
        return Kept(self._store, key, fresh=self._fresh, progress=self._progress)

    def get(self, step: str, make: Callable[[], Result], *, part: bool = False) -> Result:
        """The stored result of a step, or the new result of ``make``.

        Args:
            step: name of the step under this key.
            make: computes the result.
            part: whether the result is only useful until the larger step that it belongs to is done; see `drop_parts`.
        """
        if self._store is None:
            return make()
        key = hashlib.sha256(json.dumps([self._key, step]).encode()).hexdigest()
        if part:
            self._parts.append(key)
        if not self._fresh:
            arrays = self._store.get(key)
            if arrays is not None:
                _log.info("%s: kept from an earlier run", step)
                if not part:
                    with self._progress.stage(f"{step} (kept)"):
                        pass
                found: Result = decode(json.loads(bytes(arrays[TREE])), arrays, _TENSORS)
                return found
        result = make()
        packed: dict[str, Any] = {}
        tree = encode(result, packed, _TENSORS)
        packed[TREE] = np.frombuffer(json.dumps(tree).encode(), np.uint8)
        self._store.put(key, packed)
        return result

    def drop_parts(self) -> None:
        """Remove the stored results of all parts so far, because the step they belong to is done."""
        for key in self._parts:
            assert self._store is not None
            self._store.remove(key)
        self._parts.clear()


NOT_KEPT = Kept()
"""Stores nothing: every step runs."""
