"""onnxruntime on this CPU."""

from __future__ import annotations

from collections.abc import Iterator

from lampq_onnx.runtime.engine import ONNXRUNTIME
from tools.bench.targets.case import Case, Row
from tools.bench.targets.engines import rows_of


def rows(case: Case) -> Iterator[Row]:
    """Rows of its targets."""
    yield from rows_of(case, ONNXRUNTIME, "auto")
