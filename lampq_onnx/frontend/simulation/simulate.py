"""The quantized model in PyTorch: the same function as the QDQ graph.

Weights are replaced by their dequantized levels and inputs pass through quantize-dequantize. Both follow the rules of
lampq_onnx.quantization, so that simulation and file differ only in the order of float sums.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
from lampq_onnx.frontend.simulation.grids import fit_weight_grids
from lampq_onnx.frontend.simulation.levels import dequantized, float8_numbers, nearest
from lampq_onnx.frontend.simulation.row_widths import Bits, join_grids, join_weights
from lampq_onnx.graph.parameters import LayerParameters
from lampq_onnx.quantization import INTEGER_GRIDS, ActivationQuantizer, QuantizedWeight, WeightGrid
from lampq_onnx.running.memory import give_back


class WeightRounder:
    """Rounded weights of every layer and bit-width, each computed once.

    Args:
        layers: the layers; their weights as they are now are rounded, whatever replaces them later.
        moments: layer -> (d_in, d_in) second moments of its inputs. Layers with moments are rounded by GPTQ, others to
            nearest.
        measure: makes the moments when they are first needed, with the model in float. Those of a layer are forgotten
            once it is rounded to ``widths``, and made again if it needs another width.
        by_gptq: layers of which ``measure`` gives moments.
        widths: bit-widths that GPTQ rounds together when one of them is needed; other widths are rounded one at a time.
        given: layer -> weights that were rounded elsewhere; they are taken whatever width is asked for.
        grids: grids that weights may have, see `Target.grids`.
        block: inputs that share a scale, see `Target.block`.
        fitted: a rounder of the same weights with the same ``grids`` and ``block``. What either fits is known to both.

    Raises:
        ValueError: ``fitted`` has other grids or another block.
    """

    def __init__(
        self,
        layers: Sequence[ModelLayer],
        moments: Mapping[str, torch.Tensor] | None = None,
        *,
        measure: Callable[[], Mapping[str, torch.Tensor]] | None = None,
        by_gptq: Collection[str] = (),
        widths: Sequence[int] = (),
        given: Mapping[str, QuantizedWeight] | None = None,
        grids: Collection[str] = INTEGER_GRIDS,
        block: int | None = None,
        fitted: WeightRounder | None = None,
    ) -> None:
        self.grids, self.block = tuple(grids), block
        if fitted is not None and (fitted.grids, fitted.block) != (self.grids, self.block):
            raise ValueError(f"grids {fitted.grids} and block {fitted.block} are not {self.grids} and {self.block}")
        self._originals = {layer.name: layer.module.weight.detach() for layer in layers}
        self._moments = dict(moments or {})
        self._measure = measure
        self._by_gptq = frozenset((*self._moments, *by_gptq))
        self._widths = tuple(widths)
        self._grids: dict[tuple[str, int], WeightGrid] = {} if fitted is None else fitted._grids
        self._errors: dict[tuple[str, int], npt.NDArray[np.float64]] = {}
        self._rounded: dict[tuple[str, int], QuantizedWeight] = {}
        self._given = dict(given or {})

    def method(self, name: str) -> str:
        """How the layer is rounded: "gptq" or "nearest"."""
        return "gptq" if name in self._by_gptq else "nearest"

    def grid(self, name: str, bits: Bits) -> WeightGrid:
        """The fitted grid of a layer at a bit-width, or with widths of its rows.

        Raises:
            LampqError: the weights cannot be quantized; names the layer.
        """
        if isinstance(bits, ChannelWidths):
            return join_grids(bits, {width: self.grid(name, width) for width in bits.counts})
        if (name, bits) not in self._grids:
            self._fit(name, (bits,))
        return self._grids[name, bits]

    def quantized(self, name: str, bits: Bits) -> QuantizedWeight:
        """Integers and scales of a layer at a bit-width, or with widths of its rows."""
        if name in self._given:
            return self._given[name]
        if isinstance(bits, ChannelWidths):
            return join_weights(bits, {width: self.quantized(name, width) for width in bits.counts})
        if (name, bits) not in self._rounded:
            if name not in self._by_gptq:
                self._rounded[name, bits] = nearest(self.grid(name, bits), self._matrix(name))
            else:
                widths = [b for b in dict.fromkeys((*self._widths, bits)) if (name, b) not in self._rounded]
                self._round(name, widths)
        return self._rounded[name, bits]

    def prepare(self) -> None:
        """Measure the moments now instead of when the first weights are rounded."""
        if self._measure is not None:
            self._moments = dict(self._measure())

    def settle(self, name: str, keep: Sequence[int]) -> None:
        """Round a layer to all widths now, keep the weights of some, and forget its moments.

        The errors of all widths stay known.
        """
        if name in self._moments:
            self._round(name, list(self._widths))
            if name in self._moments:
                self._forget_moments(name)
        else:
            for bits in self._widths:
                self.row_errors(name, bits)
        for bits in self._widths:
            if bits not in keep:
                self._rounded.pop((name, bits), None)

    def error(self, name: str, bits: int) -> float:
        """Expected squared output error of the rounding, tr(dW H dW^T); |dW|^2 if no moments are known."""
        return float(self.row_errors(name, bits).sum())

    def row_errors(self, name: str, bits: int) -> npt.NDArray[np.float64]:
        """The same for each output by itself, float64 (outputs,)."""
        if (name, bits) not in self._errors:
            weight, original = self.quantized(name, bits), self._matrix(name)
            if (name, bits) not in self._errors:
                change = (dequantized(weight, original) - original).square_()
                self._errors[name, bits] = change.sum(1, dtype=torch.float64).cpu().numpy()
        return self._errors[name, bits]

    def dequantized(self, name: str, bits: Bits) -> torch.Tensor:
        """The rounded weight in the module's shape, on its device."""
        original = self._originals[name]
        return dequantized(self.quantized(name, bits), original).reshape(original.shape)

    def _round(self, name: str, widths: Sequence[int]) -> None:
        """Round a layer by GPTQ to several widths in one pass."""
        self._fit(name, [bits for bits in widths if (name, bits) not in self._grids])
        if name not in self._moments:
            self.prepare()
        results = gptq_quantize(
            self._matrix(name), [self.grid(name, b) for b in widths], self._moments[name], latent=False
        )
        for bits, result in zip(widths, results, strict=True):
            self._rounded[name, bits], self._errors[name, bits] = result.weight, result.errors
        if self._measure is not None:
            self._forget_moments(name)

    def _forget_moments(self, name: str) -> None:
        """Free the moments of a layer. Between the codes of all layers their memory would not be used again."""
        del self._moments[name]
        give_back()

    def _fit(self, name: str, widths: Sequence[int]) -> None:
        try:
            found = fit_weight_grids(self._matrix(name), widths, self.grids, self.block)
        except ValueError as error:
            raise LampqError(f"layer {name} cannot be quantized: {error}") from error
        self._grids |= {(name, bits): grid for bits, grid in zip(widths, found, strict=True)}

    def _matrix(self, name: str) -> torch.Tensor:
        """The float weight, float32 (outputs, inputs) on its device."""
        return self._originals[name].float().flatten(1)


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
    if quantizer.float8:
        return float8_numbers(torch.div(values, scale)).float().mul_(scale)
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
    weights = {
        layer.name: dequantized(parameters[layer.name].weight, layer.module.weight)
        for layer in layers
        if layer.name in parameters
    }
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
