"""The layers of a model that get bit-widths, and the float graph that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import torch


@dataclass(frozen=True)
class ModelLayer:
    """One layer: its module and its name in the graph.

    Attributes:
        name: path of the module, and name of the layer in the graph.
        type: role of the layer, such as qkv, proj, fc1, fc2, patch_embed or head; see `GraphLayer`.
        module: Linear or Conv2d.
        fixed: whether the layer is outside the budget.
    """

    name: str
    type: str
    module: torch.nn.Linear | torch.nn.Conv2d
    fixed: bool

    @property
    def parameters(self) -> int:
        """Number of weights, c_i in the paper."""
        return self.module.weight.numel()

    @property
    def float_input(self) -> bool:
        """Whether the input stays in float if the target supports it.

        True for pointwise convolutions inside the network: no integer kernel for them has a float output, and as a
        MatMul between transposes they are slower than in float.
        """
        pointwise = isinstance(self.module, torch.nn.Conv2d) and tuple(self.module.kernel_size) == (1, 1)
        return pointwise and self.type != "patch_embed"

    def matrix(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """The weights as a matrix, float32 (outputs, inputs)."""
        return self.module.weight.detach().float().cpu().flatten(1).numpy()


@dataclass(frozen=True)
class Exported:
    """A float ONNX graph, and the layers of the module in it.

    Attributes:
        model: the float graph.
        layers: its layers, in graph order.
        skipped: what stays in float -> reason.
        norms: node of the graph -> LayerNorm that it computes, if known.
    """

    model: ir.Model
    layers: tuple[ModelLayer, ...]
    skipped: dict[str, str]
    norms: Mapping[str, torch.nn.Module] = field(default_factory=dict)
