"""What models are for, and how their answers are scored."""

from lampq_onnx.tasks.spec import CLASSIFICATION, TASK_NAMES, TaskName, TaskSpec

__all__ = ["CLASSIFICATION", "TASK_NAMES", "TaskName", "TaskSpec"]
