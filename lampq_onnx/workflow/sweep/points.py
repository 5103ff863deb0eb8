"""Points on disk: a point is done when its folder exists, so that a stopped sweep continues where it was."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lampq_onnx.artifacts.sweep import SweepPoint
from lampq_onnx.disk.files import created, write_atomic

POINT_FILE = "point.json"

COLUMNS = (
    "metric",
    "bits",
    "weight_average",
    "bytes",
    "top1",
    "drop_points",
    "standard_error_points",
    "agreement",
    "sqnr_db",
    "kl",
    "quantized_ms",
    "float_ms",
    "speedup",
    "samples",
    "front",
)


class PointFolder:
    """Finished points of one model, one set of images and one set of options.

    Args:
        root: where they are kept; made on the first write. Its name should be a digest of everything they depend on.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, name: str) -> SweepPoint | None:
        """Read a finished point; None if it is not done.

        Raises:
            LampqError: its point.json is damaged.
        """
        path = self.root / name / POINT_FILE
        return SweepPoint.load(path) if path.is_file() else None

    def put(self, name: str, make: Callable[[Path], SweepPoint]) -> SweepPoint:
        """Write a point's files to a temporary folder, which becomes the point's folder when all exist."""
        with created(self.root):
            stage = Path(tempfile.mkdtemp(dir=self.root, prefix=".lampq-"))
            try:
                point = make(stage)
                point.save(stage / POINT_FILE)
                stage.rename(self.root / name)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
        return point


def write_points_csv(points: Sequence[SweepPoint], front: Sequence[str], path: Path) -> None:
    """Write one row per point to a CSV file."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for point in points:
        accuracy, latency = point.accuracy, point.measured.latency
        writer.writerow(
            (
                point.metric,
                point.bits,
                point.measured.weight_average,
                point.measured.quantized_bytes,
                accuracy.quantized.top1,
                accuracy.drop_points,
                accuracy.standard_error_points,
                accuracy.agreement,
                accuracy.logit_sqnr_db,
                accuracy.kl,
                latency.quantized_ms if latency else None,
                latency.float_ms if latency else None,
                latency.speedup if latency else None,
                accuracy.samples,
                int(point.name in front),
            )
        )
    write_atomic(path, stream.getvalue().encode())
