"""Open the collections whose images and labels are in one file or in a few: tables and shards."""

from __future__ import annotations

import os
from pathlib import Path

from lampq_onnx.data.arrow import PARQUET, STATE, open_parquet, open_saved
from lampq_onnx.data.label_table import TABLE
from lampq_onnx.data.listed import Listed
from lampq_onnx.data.shards import SHARD, open_shards


def listed_of(path: Path) -> Listed | None:
    """Open tables and shards; None for every other form.

    Args:
        path: an existing file or folder.

    Raises:
        LampqError: it is of such a form, and cannot be read.
    """
    if os.path.isdir(path):
        if os.path.lexists(path / TABLE):
            return None
        if os.path.lexists(path / STATE):
            return open_saved(path)
        endings = {entry.suffix.lower() for entry in path.iterdir() if entry.is_file() and entry.name[0] != "."}
        if PARQUET in endings:
            return open_parquet(path)
        return open_shards(path) if SHARD in endings else None
    ending = path.suffix.lower()
    if ending == PARQUET:
        return open_parquet(path)
    return open_shards(path) if ending == SHARD else None
