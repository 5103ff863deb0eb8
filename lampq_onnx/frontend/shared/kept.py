"""Results of finished steps, kept between runs: a run that was stopped goes on where it was."""

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
"""Name of the array that holds a result's JSON."""

_TENSORS = Tensors(
    torch.Tensor,
    to_numpy=lambda tensor: tensor.detach().cpu().contiguous().numpy(),
    place=lambda tensor: str(tensor.device),
    from_numpy=lambda array, place: torch.from_numpy(array.copy()).to(place),
)

_log = logging.getLogger(__name__)


class Kept:
    """Results under a key of everything that they depend on.

    Args:
        store: where they are kept; None: nowhere, every step is done.
        key: digest of what all steps from here on depend on.
        fresh: do every step again, and keep its result in place of the old one.
        progress: told of steps whose result was there.
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
        """For the steps that depend on ``facts`` as well."""
        words = [self._key, *(fact if isinstance(fact, str) else fact.model_dump_json() for fact in facts)]
        key = hashlib.sha256(json.dumps(words).encode()).hexdigest()
        return Kept(self._store, key, fresh=self._fresh, progress=self._progress)

    def get(self, step: str, make: Callable[[], Result], *, part: bool = False) -> Result:
        """The result of ``make``, or the one that was kept.

        Args:
            step: names it under this key.
            part: whether it is of use only until the step that it is a part of is done; see `drop_parts`.
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
        """Forget the results of all parts so far: what they belong to is done."""
        for key in self._parts:
            assert self._store is not None
            self._store.remove(key)
        self._parts.clear()


NOT_KEPT = Kept()
"""Does every step."""
