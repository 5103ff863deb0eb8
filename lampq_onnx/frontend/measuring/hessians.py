"""Second moments of layer inputs, for GPTQ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lampq_onnx.frontend.measuring.visits import visit_inputs
from lampq_onnx.frontend.shared.batching import Images
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.products import own_gram
from lampq_onnx.frontend.shared.threads import SUM_THREADS, torch_threads
from lampq_onnx.frontend.shared.tokens import as_tokens
from lampq_onnx.running.processes import ALONE, Group, summed


def input_moments(
    model: torch.nn.Module, layers: Sequence[ModelLayer], images: Images, *, group: Group = ALONE
) -> dict[str, torch.Tensor]:
    """H = mean over tokens of x x^T / |x|^2 for every layer, float32 (d_in, d_in) on the layer's device.

    Every token counts the same, whatever its length (see simulation.gptq). Sums are streamed: only the moments take
    memory.
    """
    sums: dict[str, torch.Tensor] = {}
    counts = dict.fromkeys((layer.name for layer in layers), 0)

    def visit(layer: ModelLayer, values: torch.Tensor) -> None:
        tokens = as_tokens(layer.module, values).flatten(0, 1).float()
        tokens = tokens / tokens.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        with torch_threads(SUM_THREADS):
            if layer.name in sums:
                sums[layer.name].add_(own_gram(tokens))
            else:
                sums[layer.name] = own_gram(tokens)
        counts[layer.name] += len(tokens)

    visit_inputs(model, layers, images, visit, group=group)
    if group.size > 1:
        sums = _shared(sums, layers, group)
    total = summed(counts, group)
    return {name: value.div_(total[name]) for name, value in sums.items()}


def _shared(sums: dict[str, torch.Tensor], layers: Sequence[ModelLayer], group: Group) -> dict[str, torch.Tensor]:
    """Sum over all processes, one layer at a time; a process may have seen no image."""
    result = {}
    for layer in layers:
        weight = layer.matrix()
        own = sums.get(layer.name)
        values = np.zeros((weight.shape[1], weight.shape[1])) if own is None else own.double().cpu().numpy()
        result[layer.name] = torch.from_numpy(group.sum(values)).float().to(layer.module.weight.device)
    return result
