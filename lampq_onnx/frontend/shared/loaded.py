"""`LoadedModel`: a float model with its weights, and checks of those weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lampq_onnx.artifacts import ModelIdentity
from lampq_onnx.artifacts.task import CLASSIFICATION, TaskSpec
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError

if TYPE_CHECKING:
    from lampq_onnx.frontend.shared.onnx_source import OnnxSource


@dataclass(frozen=True)
class LoadedModel:
    """A float model in evaluation mode.

    Attributes:
        module: takes float32 (n, c, h, w) and returns one tensor (n, ...), which the task explains; has the task's
            likelihood as the attribute `likelihood`, unless it is a classifier.
        preprocessing: how images become inputs.
        identity: name, hash of the weights, number of classes.
        source: the graph that the module was built from, if the model came as an ONNX file.
        task: what the outputs mean.
    """

    module: torch.nn.Module
    preprocessing: Preprocessing
    identity: ModelIdentity
    source: OnnxSource | None = None
    task: TaskSpec = CLASSIFICATION


def weights_hash(module: torch.nn.Module) -> str:
    """sha256 over names, shapes, types and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else b"")
    return digest.hexdigest()


def require_finite(module: torch.nn.Module, source: Path) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        LampqError: names the first tensor that holds such a value.
    """
    for key, value in module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise LampqError(f"the tensor {key} of {source} holds NaN or infinity")
