"""The base of all artifacts: strict, versioned, immutable JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from lampq_onnx.disk.files import read_text, write_atomic
from lampq_onnx.disk.wording import explain
from lampq_onnx.errors import LampqError


class Record(BaseModel):
    """An immutable value that rejects unknown keys, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Artifact(Record):
    """A record that is stored as a JSON file."""

    def to_json(self) -> str:
        """Return the file's text: indented, keys in declaration order, one trailing newline."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"

    def save(self, path: str | Path) -> None:
        """Write the artifact to a file, atomically."""
        write_atomic(Path(path), self.to_json().encode())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and validate a file.

        Raises:
            LampqError: the file is missing, unreadable, not JSON, or not this kind of artifact; the message names the
                first few offending keys.
        """
        path, kind = Path(path), cls.__name__
        text = read_text(path, f"the {kind} file")
        try:
            data = json.loads(text, object_pairs_hook=_without_repetition)
        except (ValueError, RecursionError) as error:
            raise LampqError(f"{path} is not valid JSON: {error}") from error
        try:
            return cls.model_validate_json(json.dumps(data))
        except (ValidationError, ValueError, RecursionError) as error:
            raise LampqError(f"{path} is not a valid {kind}: {_first_problems(error)}") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Reject repeated keys: JSON readers disagree on which of two equal keys counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} appears twice")
    return found


def _first_problems(error: Exception, limit: int = 3) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    problems = error.errors(include_url=False)
    shown = [f"at {'.'.join(map(str, p['loc'])) or 'the top'}: {explain([p])}" for p in problems[:limit]]
    return ("" if len(problems) <= limit else f"{len(problems)} values are wrong, the first ") + "; ".join(shown)
