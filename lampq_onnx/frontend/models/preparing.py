"""A module as it comes, brought into the form that all stages read."""

from __future__ import annotations

import torch

from lampq_onnx.data import Preprocessing
from lampq_onnx.frontend.models.own_weights import own_weights
from lampq_onnx.frontend.models.rewrites import rewrite
from lampq_onnx.frontend.models.trial import noise, require_answer
from lampq_onnx.frontend.shared.isolation import isolate


def prepare(module: torch.nn.Module, name: str, preprocessing: Preprocessing) -> torch.Tensor:
    """Try a model on images, then rewrite it without changing what it computes. In place.

    Args:
        module: in evaluation mode.
        name: of the model, for messages.

    Returns:
        Its answer to two random images, float32 (2, ...).

    Raises:
        LampqError: see `require_answer`, `isolate` and `rewrite`.
    """
    own_weights(module)
    answer = require_answer(module, name, preprocessing)
    example = noise(preprocessing, module)
    # Batch norms go into the layers before them first: the outputs of these layers are then what may be overwritten.
    rewrite(module, name, example)
    isolate(module, name, example)
    return answer
