"""Brings a loaded module into the form that all stages expect."""

from __future__ import annotations

import torch

from lampq_onnx.data import Preprocessing
from lampq_onnx.frontend.models.own_weights import own_weights
from lampq_onnx.frontend.models.rewrites import rewrite
from lampq_onnx.frontend.models.trial import noise, require_answer
from lampq_onnx.frontend.shared.batching import pass_images
from lampq_onnx.frontend.shared.isolation import isolate


def prepare(module: torch.nn.Module, name: str, preprocessing: Preprocessing) -> torch.Tensor:
    """Run a model on images, then rewrite it in place without changing what it computes.

    Args:
        module: the model in evaluation mode.
        name: name of the model, for messages.
        preprocessing: size and channels of its input.

    Returns:
        The model's answer to two random images, float32 (2, ...).

    Raises:
        LampqError: see `require_answer`, `isolate` and `rewrite`.
    """
    own_weights(module)
    answer = require_answer(module, name, preprocessing)
    example = noise(preprocessing, module, pass_images(preprocessing.size, 2))
    # Fold batch norms first: the output of the folded layer is what the model may overwrite.
    rewrite(module, name, example)
    isolate(module, name, example)
    return answer
