"""Derive a model's task from the labels of images."""

from __future__ import annotations

import numpy as np

from lampq_onnx.artifacts.task import TaskName
from lampq_onnx.data.source import Targets


def task_of_labels(labels: Targets | None, outputs: int) -> tuple[TaskName | None, str]:
    """Find the task of a model that gives each image a row of numbers.

    One number per image is binary if the labels are 0 and 1, and regression if a label is not a whole number or there
    are three or more different labels. Several numbers are regression or multi-label if each image has as many labels.

    Args:
        labels: (n, ...) numbers, or None if there are none.
        outputs: numbers in a row.

    Returns:
        The task, or None and why the labels do not decide.
    """
    if labels is None:
        return None, "no labels say what it means"
    flat = labels.reshape(len(labels), -1)
    if flat.shape[1] != outputs:
        return None, f"the labels have {flat.shape[1]} numbers for each image"
    distinct = np.unique(flat)
    yes_or_no = bool(np.isin(distinct, (0, 1)).all())
    if outputs > 1:
        return ("multi-label" if yes_or_no else "regression"), ""
    if yes_or_no and len(distinct) == 2:
        return "binary", ""
    if len(distinct) > 2 or (distinct != np.round(distinct)).any():
        return "regression", ""
    shown = " or ".join(f"{value:g}" for value in distinct)
    return None, f"labels that are all {shown} do not say what it means"
