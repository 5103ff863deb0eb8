"""The limits that a report was judged by, and the problems that were found."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lampq_onnx.disk.records import Record

ProblemCode = Literal["not-finite", "layer-differs", "kernels-add-error"]


class GateLimits(Record):
    """The gates that applied to a report. A figure whose limit is null is shown and never fails."""

    max_drop: float | None = Field(default=None, description="largest drop of the task's score, in points")
    min_agreement: float | None = Field(
        default=None, ge=0, le=1, description="smallest measured fraction of answers that are those of the float file"
    )


class Problem(Record):
    """A difference between what the file says and what this machine computes. Every problem fails a gate."""

    code: ProblemCode = Field(description="kind of the problem, for programs")
    message: str = Field(description="one sentence that describes the problem")
    layer: str | None = Field(default=None, description="name of the layer, if one layer is the cause")
