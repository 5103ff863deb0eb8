"""OpenVINO on this CPU, with its own precision and in float32."""

from __future__ import annotations

from collections.abc import Iterator

from lampq_onnx.errors import LampqError
from lampq_onnx.runtime.engine import Engine
from lampq_onnx.runtime.runtimes import in_float32
from tools.bench.targets.case import Case, Row
from tools.bench.targets.engines import rows_of


def rows(case: Case) -> Iterator[Row]:
    """Rows of its targets; float32 only where that is not the default."""
    default = Engine("openvino")
    yield from rows_of(case, default, "openvino")
    try:
        narrow = not in_float32(default)
    except LampqError:
        return
    if narrow:
        yield from (row for row in rows_of(case, Engine("openvino", "f32"), "openvino") if row.form)
