"""Names that options take, and what each of them means: help texts, `list` and shell completion are made from these.

Every name has its home in the code that uses it (metrics in `allocation`, targets in `targets`); here they are only
brought together. Tables are made when they are asked for, so that `--help` loads no more than it shows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from lampq_onnx.artifacts.task import TASKS
from lampq_onnx.targets import BY_CPU, PACKINGS, RUNNERS, TARGETS

Names = Mapping[str, str]
"""Name -> one line that says what it is."""

EFFORTS: Names = {
    "fast": "costs from one backward pass, GPTQ for all layers at once",
    "balanced": "costs measured for each layer and width, GPTQ layer by layer on quantized inputs",
    "best": "as balanced, then learned rounding for each block and tuning of the whole model; uses more images",
    "max": "as best, then 5,500 steps of training of the whole model; for a GPU, where they take about ten minutes",
}


def metrics() -> Names:
    """Metrics of the allocation."""
    from lampq_onnx.allocation.metrics import METRICS

    return {name: metric.summary for name, metric in METRICS.items()}


def targets() -> Names:
    """Targets, and the names that choose one by the CPU."""
    return {**BY_CPU, **{name: target.runtime for name, target in TARGETS.items()}}


def runtimes() -> Names:
    """Runtimes that run files here, and `auto`."""
    return {"auto": "the runtime of the target; onnxruntime if none runs its files here", **RUNNERS}


def tasks() -> Names:
    """Names of all tasks, and `auto`."""
    return {"auto": "found from the outputs of the model and the labels"} | dict(TASKS)


def packings() -> Names:
    """Storages of the weights, and `auto`."""
    return {"auto": "the first storage that the target reads"} | dict(PACKINGS)


def efforts() -> Names:
    """Efforts of measuring and rounding."""
    return EFFORTS


TABLES: Mapping[str, Callable[[], Names]] = {
    "metrics": metrics,
    "targets": targets,
    "runtimes": runtimes,
    "tasks": tasks,
    "efforts": efforts,
    "packings": packings,
}
"""What can be listed -> its names."""

_MARK = re.compile(r"\{([a-z]+)\}")


def filled(text: str, tables: Mapping[str, Callable[[], Names]] = TABLES) -> str:
    """A help text with the names in the place of marks such as ``{metrics}``.

    Args:
        tables: of the marks; other words in braces stay as they are.
    """
    return _MARK.sub(lambda mark: ", ".join(tables[mark[1]]()) if mark[1] in tables else mark[0], text)
