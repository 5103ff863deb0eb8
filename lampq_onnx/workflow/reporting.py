"""`report` and `validate`: what was measured, as files for people and for pipelines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lampq_onnx.artifacts import Report, Sensitivities
from lampq_onnx.artifacts.gates import GateLimits
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.disk.existing import require_new_files
from lampq_onnx.disk.files import FLOAT_FILE, REPORT_FILE, SENSITIVITY_FILE, write_atomic
from lampq_onnx.errors import UsageError
from lampq_onnx.evaluation.gate_files import junit, markdown
from lampq_onnx.graph.model_file import require_model_file
from lampq_onnx.html import write_report
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.workflow.validate_files import validate as compare


@dataclass(frozen=True)
class CheckFiles:
    """Where the result of `validate` goes; None: that file is not written.

    Attributes:
        report: report.json; its page is written beside it.
        junit: the gates as JUnit XML.
        summary: the gates as Markdown.
    """

    report: Path | None = None
    junit: Path | None = None
    summary: Path | None = None

    @property
    def page(self) -> Path | None:
        """The page of the report."""
        return None if self.report is None else self.report.with_suffix(".html")


NO_FILES = CheckFiles()


def validate(
    model: Path,
    reference: Path | None,
    images: ImageOptions,
    options: OutputOptions,
    limits: GateLimits,
    *,
    files: CheckFiles = NO_FILES,
    given: Iterable[object] | None = None,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
) -> Report | None:
    """Check a quantized file against its float file, and write what was found; see `validate_files.validate`.

    The files are written whether gates fail or not, and say so.

    Args:
        model: the quantized file.
        reference: the float file; None: float.onnx in the same folder.
        images: with the validation images.
        options: threads, and how latency is measured.
        limits: of the gates.
        files: what to write.
        given: a data set or batches of Python, which replace the images.
        overwrite: replace files that exist.
        progress: told of stages.

    Returns:
        the report; None in processes of torchrun that only help.

    Raises:
        UsageError: a file exists, no float file or no images are named.
        LampqError: a file is missing or cannot be read, or the images do not fit it.
    """
    require_new_files((files.report, files.page, files.junit, files.summary), overwrite=overwrite)
    require_model_file(model)
    against = reference or model.with_name(FLOAT_FILE)
    if reference is None and not against.is_file():
        raise UsageError(f"there is no {FLOAT_FILE} beside {model}", hint="name the float file with --reference FILE")
    if images.validation is None and given is None:
        raise UsageError("validate needs labelled images", hint="give them with --validation SRC")
    found = compare(model, against, images, options, limits, given=given, progress=progress)
    if found is None:
        return None
    if files.report is not None and files.page is not None:
        found.save(files.report)
        write_report(found, files.page, files=[files.report.name])
    for path, text in ((files.junit, junit), (files.summary, markdown)):
        if path is not None:
            write_atomic(path, text(found, model.name).encode())
    return found


def report(source: str | Path, output: str | Path | None = None, *, overwrite: bool = False) -> Path:
    """Draw the page of a report.json: one HTML file that opens offline.

    Args:
        source: a folder with report.json, or such a file. sensitivity.json beside it is read as well.
        output: the file to write; None: beside report.json, where an earlier page is replaced.
        overwrite: replace ``output`` if it exists.

    Returns:
        the path of the page.

    Raises:
        UsageError: there is no report, or ``output`` exists.
        LampqError: a file cannot be read.
    """
    place, page = Path(source), None if output is None else Path(output)
    path = place / REPORT_FILE if place.is_dir() else place
    if place.is_dir() and not path.is_file():
        raise UsageError(f"{place} has no {REPORT_FILE}", hint="name a folder that quantize wrote, or a .json file")
    require_new_files((page,), overwrite=overwrite)
    found = Report.load(path)
    beside = path.parent / SENSITIVITY_FILE
    sensitivities = Sensitivities.load(beside) if beside.is_file() else None
    target = page or path.with_suffix(".html")
    same = target.parent.resolve() == path.parent.resolve()
    write_report(found, target, sensitivities, sorted(entry.name for entry in path.parent.iterdir()) if same else ())
    return target
