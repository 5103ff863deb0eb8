"""What a folder's report says about its model: that it was measured on it, and which gates it fails."""

from __future__ import annotations

from pathlib import Path

from lampq_onnx.artifacts import Report
from lampq_onnx.disk.files import MODEL_FILE, REPORT_FILE
from lampq_onnx.errors import LampqError
from lampq_onnx.evaluation.gates import failed_gates, gates_of
from lampq_onnx.graph.model_file import file_bytes, file_sha256


def require_measured(folder: Path) -> tuple[str, ...]:
    """Check that report.json was measured on this model.onnx, as far as the report tells; return what it fails.

    Args:
        folder: folder with a model.onnx; without a report.json nothing is checked.

    Returns:
        one sentence for each gate that the file fails; a file that fails may be packaged, but not in silence.

    Raises:
        LampqError: the file was replaced since, or the report cannot be read.
    """
    path, report_path = folder / MODEL_FILE, folder / REPORT_FILE
    if not report_path.is_file():
        return ()
    report = Report.load(report_path)
    if report.model_sha256 is None:  # older reports hold only the size
        same = report.size.quantized_bytes == file_bytes(path)
    else:
        same = report.model_sha256 == file_sha256(path)
    if not same:
        raise LampqError(
            f"{path} was replaced: it is not the file that {report_path} was measured on",
            hint=f"measure it (lampq-onnx validate {path} ... --output {report_path}), or name the file itself: "
            f"lampq-onnx package {path}",
        )
    return tuple(gate.sentence for gate in failed_gates(gates_of(report)))
