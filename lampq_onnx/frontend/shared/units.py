"""The layers of a model whose widths are chosen, and the float graph that they come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch


@dataclass(frozen=True)
class Unit:
    """One allocated layer: a module and its node.

    Attributes:
        name: module path, and name of the layer in the graph.
        module: Linear or Conv2d.
        fixed: outside the budget.
    """

    name: str
    type: str
    module: torch.nn.Linear | torch.nn.Conv2d
    fixed: bool

    @property
    def parameters(self) -> int:
        """Number of weights c_i."""
        return self.module.weight.numel()

    @property
    def float_input(self) -> bool:
        """Whether the input stays in float if the target allows it: a pointwise convolution inside the network.

        No integer kernel has one with float output, and as a MatMul between transposes it is slower than in float.
        """
        pointwise = isinstance(self.module, torch.nn.Conv2d) and tuple(self.module.kernel_size) == (1, 1)
        return pointwise and self.type != "patch_embed"

    def matrix(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """float32 (outputs, inputs)."""
        return self.module.weight.detach().float().cpu().flatten(1).numpy()


@dataclass(frozen=True)
class Exported:
    """Float graph and its units, in graph order; `skipped` says what stays in float and why."""

    model: ir.Model
    units: tuple[Unit, ...]
    skipped: dict[str, str]
