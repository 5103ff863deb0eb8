"""`LiveModel`: a model whose layers can be quantized and restored one at a time, for stages that try many settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.parameters import frozen
from lampq_onnx.frontend.simulation.levels import dequantized
from lampq_onnx.frontend.simulation.simulate import fake_quantize
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight

Layer = Callable[[torch.Tensor], torch.Tensor]


class LiveModel:
    """A simulation whose layers can be changed; `live_model` creates it and restores the float model at the end.

    Args:
        model: the float model.
        layers: layers that may be changed.

    Attributes:
        model: the model in its current state.
        layers: layers by name, in graph order.
    """

    def __init__(self, model: torch.nn.Module, layers: Sequence[ModelLayer]) -> None:
        self.model = model
        self.layers = {layer.name: layer for layer in layers}
        self._weights = {name: layer.module.weight for name, layer in self.layers.items()}
        self._biases: dict[str, torch.nn.Parameter | None] = {
            name: layer.module._parameters["bias"] for name, layer in self.layers.items()
        }
        self._inputs: dict[str, ActivationQuantizer] = {}
        self._replaced: dict[str, Layer] = {}

    @property
    def device(self) -> torch.device:
        """The device that the model computes on."""
        return next(self.model.parameters()).device

    def set_weight(self, name: str, weight: QuantizedWeight | None) -> None:
        """Use rounded weights and their bias for layer ``name``; None restores the float ones."""
        module = self.layers[name].module
        original = self._weights[name]
        if weight is None:
            module.weight, module.bias = original, self._biases[name]
            return
        # New Parameters are needed: modules may share the old ones.
        module.weight = frozen(dequantized(weight, original).reshape(original.shape))
        if weight.bias is None:
            module.bias = self._biases[name]
        else:
            module.bias = frozen(torch.from_numpy(weight.bias).to(original))

    def set_input(self, name: str, quantizer: ActivationQuantizer | None) -> None:
        """Quantize the input of layer ``name``; None leaves it in float."""
        if quantizer is None:
            self._inputs.pop(name, None)
        else:
            self._inputs[name] = quantizer

    def replace(self, name: str, layer: Layer | None) -> None:
        """Let ``layer`` compute layer ``name`` from its float input; None restores the original."""
        if layer is None:
            self._replaced.pop(name, None)
        else:
            self._replaced[name] = layer

    def weight(self, name: str) -> torch.Tensor:
        """The float weight of layer ``name`` as a matrix, float32 (outputs, inputs)."""
        return self._weights[name].data.flatten(1)

    def bias(self, name: str) -> torch.Tensor | None:
        """The float bias of layer ``name``, float32 (outputs,), if there is one."""
        bias = self._biases[name]
        return None if bias is None else bias.data

    @contextmanager
    def in_float(self) -> Iterator[None]:
        """Run in float inside the block, then restore."""
        inputs, replaced = dict(self._inputs), dict(self._replaced)
        parts = {name: (layer.module.weight, layer.module.bias) for name, layer in self.layers.items()}
        try:
            self.reset()
            yield
        finally:
            self._inputs, self._replaced = inputs, replaced
            for name, layer in self.layers.items():
                layer.module.weight, layer.module.bias = parts[name]

    def reset(self) -> None:
        """Set all layers back to float."""
        self._inputs.clear()
        self._replaced.clear()
        for name in self.layers:
            self.set_weight(name, None)

    def _forward(self, name: str, original: Layer) -> Layer:
        def forward(values: torch.Tensor) -> torch.Tensor:
            layer = self._replaced.get(name)
            if layer is not None:
                return layer(values)
            quantizer = self._inputs.get(name)
            return original(values if quantizer is None else fake_quantize(values, quantizer))

        return forward

    @contextmanager
    def _installed(self) -> Iterator[None]:
        try:
            for name, layer in self.layers.items():
                module: Any = layer.module
                module.forward = self._forward(name, module.forward)
            yield
        finally:
            for layer in self.layers.values():
                layer.module.__dict__.pop("forward", None)
            self.reset()


@contextmanager
def live_model(model: torch.nn.Module, layers: Sequence[ModelLayer]) -> Iterator[LiveModel]:
    """The model as a `LiveModel` inside the block; the float model is restored on exit."""
    live = LiveModel(model, layers)
    with live._installed():
        yield live
