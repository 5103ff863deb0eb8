"""The quantized model in PyTorch: the same function as the QDQ graph.

Weights are replaced by their dequantized levels and inputs pass through quantize-dequantize. Both follow the rules of
lampq_onnx.quantization, so that simulation and file differ only in the order of float sums.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lampq_onnx.artifacts import ChannelWidths
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.simulation.gptq import gptq_quantize
from lampq_onnx.frontend.simulation.row_widths import Bits, join_grids, join_weights
from lampq_onnx.graph.parameters import LayerParameters
from lampq_onnx.quantization import (
    ActivationQuantizer,
    Grid,
    QuantizedWeight,
    WeightGrid,
    fit_weight_grid,
)


class WeightRounder:
    """Rounded weights of every layer and bit-width, each computed once.

    Args:
        layers: the layers.
        moments: layer -> (d_in, d_in) second moments of its inputs. Layers with moments are rounded by GPTQ, others to
            nearest.
        widths: bit-widths that GPTQ rounds together when one of them is needed; other widths are rounded one at a time.
        grids: grids that weights may have, see `Target.grids`.
    """

    def __init__(
        self,
        layers: Sequence[ModelLayer],
        moments: Mapping[str, torch.Tensor] | None = None,
        *,
        widths: Sequence[int] = (),
        grids: Collection[str] = tuple(Grid),
    ) -> None:
        self.grids = tuple(grids)
        self._originals = {layer.name: layer.module.weight.detach().clone() for layer in layers}
        self._moments = dict(moments or {})
        self._widths = tuple(widths)
        self._grids: dict[tuple[str, int], WeightGrid] = {}
        self._rounded: dict[tuple[str, int], QuantizedWeight] = {}

    def method(self, name: str) -> str:
        """How the layer is rounded: "gptq" or "nearest"."""
        return "gptq" if name in self._moments else "nearest"

    def grid(self, name: str, bits: Bits) -> WeightGrid:
        """The fitted grid of a layer at a bit-width, or with widths of its rows.

        Raises:
            LampqError: the weights cannot be quantized; names the layer.
        """
        if isinstance(bits, ChannelWidths):
            return join_grids(bits, {width: self.grid(name, width) for width in bits.counts})
        key = (name, bits)
        if key not in self._grids:
            try:
                self._grids[key] = fit_weight_grid(self._matrix(name), bits, self.grids)
            except ValueError as error:
                raise LampqError(f"layer {name} cannot be quantized: {error}") from error
        return self._grids[key]

    def quantized(self, name: str, bits: Bits) -> QuantizedWeight:
        """Integers and scales of a layer at a bit-width, or with widths of its rows."""
        if isinstance(bits, ChannelWidths):
            return join_weights(bits, {width: self.quantized(name, width) for width in bits.counts})
        if (name, bits) not in self._rounded:
            widths = [b for b in dict.fromkeys((*self._widths, bits)) if (name, b) not in self._rounded]
            moments = self._moments.get(name)
            if moments is None:
                self._rounded[name, bits] = self.grid(name, bits).quantize(self._matrix(name))
            else:
                weight = self._originals[name].float().flatten(1)
                results = gptq_quantize(weight, [self.grid(name, b) for b in widths], moments)
                self._rounded |= {(name, b): r.weight for b, r in zip(widths, results, strict=True)}
        return self._rounded[name, bits]

    def error(self, name: str, bits: int) -> float:
        """Expected squared output error of the rounding, tr(dW H dW^T); |dW|^2 if no moments are known."""
        return float(self._row_errors(name, bits).sum(dtype=torch.float64))

    def _row_errors(self, name: str, bits: int) -> torch.Tensor:
        original = self._originals[name].float().flatten(1)
        change = torch.from_numpy(self.quantized(name, bits).dequantize()).to(original) - original
        moments = self._moments.get(name)
        return (change if moments is None else change @ moments).mul(change)

    def row_errors(self, name: str, bits: int) -> npt.NDArray[np.float64]:
        """The same for each output by itself, float64 (outputs,); `error` is their sum."""
        errors: npt.NDArray[np.float64] = self._row_errors(name, bits).sum(1, dtype=torch.float64).cpu().numpy()
        return errors

    def dequantized(self, name: str, bits: Bits) -> torch.Tensor:
        """The rounded weight in the module's shape, on its device."""
        original = self._originals[name]
        rounded = torch.from_numpy(self.quantized(name, bits).dequantize())
        return rounded.reshape(original.shape).to(original)

    def _matrix(self, name: str) -> npt.NDArray[np.float32]:
        matrix: npt.NDArray[np.float32] = self._originals[name].float().cpu().flatten(1).numpy()
        return matrix


@dataclass(frozen=True)
class LayerSetting:
    """How one layer is simulated.

    Attributes:
        weight_bits: bit-width of the weights, or of their rows; None leaves them in float.
        activation: quantizer of the input; None leaves it in float.
    """

    weight_bits: Bits | None
    activation: ActivationQuantizer | None


def fake_quantize(values: torch.Tensor, quantizer: ActivationQuantizer) -> torch.Tensor:
    """Quantize and dequantize a tensor, like `ActivationQuantizer.fake` for arrays."""
    top = 2**quantizer.bits - 1
    scale = torch.tensor(quantizer.scale, dtype=torch.float32, device=values.device)
    level = torch.div(values, scale).round_().clamp_(-quantizer.zero_point, top - quantizer.zero_point)
    return level.mul_(scale)


@contextmanager
def simulated(
    layers: Sequence[ModelLayer], settings: Mapping[str, LayerSetting], rounder: WeightRounder
) -> Iterator[None]:
    """Let the layers in ``settings`` compute as quantized inside the block; restore the model on exit.

    If a rounding has a bias, it replaces the module's bias.
    """
    weights = {
        name: rounder.dequantized(name, setting.weight_bits)
        for name, setting in settings.items()
        if setting.weight_bits is not None
    }
    activations = {name: setting.activation for name, setting in settings.items() if setting.activation is not None}
    biases = {
        name: rounder.quantized(name, setting.weight_bits).bias
        for name, setting in settings.items()
        if setting.weight_bits is not None
    }
    with _swapped(layers, weights, biases, activations):
        yield


@contextmanager
def simulated_parameters(layers: Sequence[ModelLayer], parameters: Mapping[str, LayerParameters]) -> Iterator[None]:
    """Like `simulated`, with exactly the numbers that the converter writes."""
    weights = {name: torch.from_numpy(numbers.weight.dequantize()) for name, numbers in parameters.items()}
    biases = {name: numbers.weight.bias for name, numbers in parameters.items()}
    activations = {name: n.activation for name, n in parameters.items() if n.activation is not None}
    products = {name: n.product for name, n in parameters.items() if n.product is not None}
    with _swapped(layers, weights, biases, activations, products):
        yield


@contextmanager
def _swapped(
    layers: Sequence[ModelLayer],
    weights: Mapping[str, torch.Tensor],
    biases: Mapping[str, npt.NDArray[np.float32] | None],
    activations: Mapping[str, ActivationQuantizer],
    products: Mapping[str, ActivationQuantizer] | None = None,
) -> Iterator[None]:
    """Use other weights (reshaped to the modules'), biases and quantizers inside the block."""
    with ExitStack() as restore:
        for layer in layers:
            if layer.name in weights:
                weight = layer.module.weight
                restore.callback(setattr, weight, "data", weight.data)
                weight.data = weights[layer.name].reshape(weight.shape).to(weight.data)
            bias = biases.get(layer.name)
            if bias is not None:
                # A new Parameter is needed: modules may share the old one, and some have none.
                restore.callback(setattr, layer.module, "bias", layer.module.bias)
                other = torch.from_numpy(bias).to(layer.module.weight)
                layer.module.bias = torch.nn.Parameter(other, requires_grad=False)
            if layer.name in activations:
                handle = layer.module.register_forward_pre_hook(_input_hook(activations[layer.name]))
                restore.callback(handle.remove)
            if products and layer.name in products:
                handle = layer.module.register_forward_hook(_product_hook(products[layer.name]))
                restore.callback(handle.remove)
        yield


def product_of(module: torch.nn.Module, output: torch.Tensor) -> torch.Tensor:
    """What a Linear or Conv2d computes before its bias is added."""
    return output - bias_as_channels(module)


def bias_as_channels(module: torch.nn.Module) -> torch.Tensor | float:
    """The bias in a shape that can be added to the module's output; 0 if it has none."""
    bias = module.bias
    if not isinstance(bias, torch.Tensor):
        return 0.0
    return bias.reshape(-1, 1, 1) if isinstance(module, torch.nn.Conv2d) else bias


def _product_hook(quantizer: ActivationQuantizer) -> Any:
    def hook(module: torch.nn.Module, _: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return fake_quantize(product_of(module, output), quantizer) + bias_as_channels(module)

    return hook


def _input_hook(quantizer: ActivationQuantizer) -> Any:
    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (fake_quantize(inputs[0], quantizer), *inputs[1:])

    return hook
