"""`compare`: two results of quantize or validate, on the terminal and as a page."""

from __future__ import annotations

from pathlib import Path

from lampq_onnx.artifacts import Report
from lampq_onnx.disk.existing import require_new_files
from lampq_onnx.disk.files import REPORT_FILE, write_atomic
from lampq_onnx.errors import UsageError
from lampq_onnx.evaluation.two_runs import TwoRuns, compare_runs
from lampq_onnx.html.two_runs import compare_page


def compare(
    first: str | Path, second: str | Path, output: str | Path | None = None, *, overwrite: bool = False
) -> TwoRuns:
    """Compare two results, and write a page about it.

    Args:
        first: a folder that quantize wrote, or a report.json.
        second: likewise.
        output: the HTML page to write; None: none.
        overwrite: replace ``output`` if it exists.

    Returns:
        figures, widths and answers of both, and a verdict in one sentence.

    Raises:
        UsageError: a folder has no report, the page exists, or the tasks differ.
        LampqError: a report cannot be read.
    """
    first, second = Path(first), Path(second)
    page = None if output is None else Path(output)
    require_new_files((page,), overwrite=overwrite)
    one, two = _report(first), _report(second)
    names = (str(first), str(second)) if first.name == second.name else (first.name or ".", second.name or ".")
    found = compare_runs(one, two, names)
    if page is not None:
        write_atomic(page, compare_page(found, one, two).encode())
    return found


def _report(place: Path) -> Report:
    path = place / REPORT_FILE if place.is_dir() else place
    if place.is_dir() and not path.is_file():
        raise UsageError(f"{place} has no {REPORT_FILE}", hint="name a folder that quantize wrote, or a .json file")
    return Report.load(path)
