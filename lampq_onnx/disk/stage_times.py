"""The seconds that stages of earlier runs took, in the user's cache folder: they make the time left a good guess."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from lampq_onnx.disk.cache import cache_folder
from lampq_onnx.disk.files import write_atomic
from lampq_onnx.errors import LampqError

TIMES_FILE = "stage-times.json"

MOST_RUNS = 200
"""Runs that are remembered; the oldest are forgotten first."""

_log = logging.getLogger(__name__)


def earlier_times(run: str) -> dict[str, float]:
    """Return the seconds of each stage when this kind of run was last made; empty if it was not, or is not known.

    Args:
        run: command and model, e.g. "quantize digits".
    """
    return _read(_path()).get(run, {})


def remember_times(run: str, seconds: Mapping[str, float]) -> None:
    """Keep the seconds of the stages of a run; stages that it left out keep those of the run before.

    Args:
        run: command and model.
        seconds: stage -> seconds.
    """
    path = _path()
    if path is None or not seconds:
        return
    known = _read(path)
    known[run] = known.pop(run, {}) | dict(seconds)
    kept = dict(list(known.items())[-MOST_RUNS:])
    try:
        write_atomic(path, json.dumps(kept).encode())
    except (OSError, LampqError) as error:
        _log.warning("the times of the stages cannot be kept: %s", error)


def _path() -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / TIMES_FILE


def _read(path: Path | None) -> dict[str, dict[str, float]]:
    """The remembered runs; a file that is damaged counts as empty, and is replaced by the next run."""
    if path is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(run): {str(k): float(v) for k, v in stages.items()} for run, stages in found.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        _log.warning("%s cannot be read (%s); the times left are estimated from the model's size", path, error)
        return {}
