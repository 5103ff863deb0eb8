"""Files that a sweep writes beside its own."""

from __future__ import annotations

from lampq_onnx.disk.files import (
    FLOAT_FILE,
    MODEL_FILE,
    PAGE_FILE,
    PLAN_FILE,
    REPORT_FILE,
    SENSITIVITY_FILE,
    WEIGHTS_FILE,
)

PICKED_FILES = (FLOAT_FILE, SENSITIVITY_FILE, PLAN_FILE, WEIGHTS_FILE, MODEL_FILE, REPORT_FILE, PAGE_FILE)
"""Files that a pick adds to the folder."""
