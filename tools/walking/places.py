"""Choose the folder in which the files of a run are written."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def working_folder(given: Path | None, *, again: bool = False) -> Iterator[Path]:
    """Make a folder; it is kept if it was named. With ``again``, a named one may exist."""
    if given is None:
        with tempfile.TemporaryDirectory(prefix="lampq-") as made:
            yield Path(made).resolve()
        return
    given.mkdir(parents=True, exist_ok=again)
    yield given.resolve()
