"""Second moments of the units' inputs, for GPTQ."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lampq_onnx.frontend.batching import Images
from lampq_onnx.frontend.calibration import visit_inputs
from lampq_onnx.frontend.export import Unit
from lampq_onnx.frontend.fisher import as_tokens


def input_moments(model: torch.nn.Module, units: Sequence[Unit], images: Images) -> dict[str, torch.Tensor]:
    """H = mean over tokens of x x^T / |x|^2 for every unit, float32 (d_in, d_in) on its device.

    Each token counts as much as any other, whatever its length (see rounding.gptq). Sums are streamed; memory is
    that of the moments.
    """
    sums: dict[str, torch.Tensor] = {}
    counts = dict.fromkeys((unit.name for unit in units), 0)

    def visit(unit: Unit, values: torch.Tensor) -> None:
        tokens = as_tokens(unit.module, values).flatten(0, 1).float()
        tokens = tokens / tokens.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        if unit.name in sums:
            sums[unit.name].addmm_(tokens.T, tokens)
        else:
            sums[unit.name] = tokens.T @ tokens
        counts[unit.name] += len(tokens)

    visit_inputs(model, units, images, visit)
    return {name: value.div_(counts[name]) for name, value in sums.items()}
