"""Progress of the functions: what the caller passes, or one line in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lampq_onnx.running.forecast import Forecast
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink


@contextmanager
def shown(progress: ProgressSink, forecast: Callable[[], Forecast], run: str) -> Iterator[ProgressSink]:
    """Return the sink of a run.

    Args:
        progress: what the caller passed.
        forecast: gives the expected stages.
        run: name under which their seconds are kept for the next run.
    """
    from lampq_onnx.running.notebook import NotebookProgress, in_notebook

    if progress is not NO_PROGRESS or not in_notebook():
        yield progress
        return
    from lampq_onnx.disk.stage_times import remember_times

    with NotebookProgress(forecast()) as sink:
        yield sink
    remember_times(run, sink.seconds)
