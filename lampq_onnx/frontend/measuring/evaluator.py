"""Scores bit assignments by simulating the quantized model, for the iterative update."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from lampq_onnx.errors import UsageError
from lampq_onnx.frontend.likelihoods import CLASSES, likelihood_of
from lampq_onnx.frontend.shared.batching import BATCH, Images, device_of, logits_of, tensors
from lampq_onnx.frontend.shared.forward import hooked
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.simulation.losses import Measure, image_losses, perhaps_lower
from lampq_onnx.frontend.simulation.row_widths import Bits
from lampq_onnx.frontend.simulation.simulate import LayerSetting, WeightRounder, simulated
from lampq_onnx.measures.evidence import LEAST_SEEN
from lampq_onnx.quantization import ActivationQuantizer

ERROR_BATCH = 4
"""Images of which the float outputs of all layers are held at once."""

InputOf = Callable[[str, Bits], ActivationQuantizer | None]


class SimulationEvaluator:
    """Scores bit assignments in the simulation; implements `allocation.Evaluator`.

    Args:
        model: the float model.
        layers: its layers.
        inputs_of: (layer, width of its weights) -> quantizer of its input, or None.
        rounder: rounded weights.
        images: images for the score.
        error_images: images for the reconstruction errors.
        reference: logits of the float model on ``images``.
        labels: labels of ``images``, if known.
        fixed_bits: bit-widths of the layers outside the budget.
        measure: kind of score.
        inputs: "quantized" measures a layer's error on the inputs of the quantized model, which carry the error of the
            layers before it; "float" uses the inputs of the float model.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        layers: Sequence[ModelLayer],
        inputs_of: InputOf,
        rounder: WeightRounder,
        images: Images,
        error_images: Images,
        reference: torch.Tensor,
        labels: torch.Tensor | None,
        *,
        fixed_bits: Mapping[str, Bits],
        measure: Measure = "kl",
        inputs: Literal["quantized", "float"] = "quantized",
    ) -> None:
        self._model = model
        self._layers = layers
        self._inputs_of = inputs_of
        self._rounder = rounder
        self._images = images
        self._error_images = error_images
        self._reference = reference
        self._labels = labels
        self._fixed_bits = dict(fixed_bits)
        self._measure = measure
        self._inputs = inputs

    def settings(self, bits: Mapping[str, Bits]) -> dict[str, LayerSetting]:
        """Settings that simulate a whole assignment: layer -> width of its weights and quantizer of its input."""
        widths: dict[str, Bits] = {**self._fixed_bits, **bits}
        return {name: LayerSetting(width, self._inputs_of(name, width)) for name, width in widths.items()}

    def score(self, bits: Mapping[str, Bits]) -> float:
        """Mean loss of the quantized model on the images; lower is better."""
        return float(np.mean(self.losses(bits)))

    @torch.no_grad()
    def losses(self, bits: Mapping[str, Bits], best: npt.NDArray[np.float64] | None = None) -> npt.NDArray[np.float64]:
        """Loss of the quantized model on each image, float64 (n,).

        Args:
            bits: layer -> width of its weights.
            best: losses that these would have to be clearly lower than; measuring stops after the batch that leaves no
                chance of it, and the losses of the images so far are returned. Of "top1" all are measured: an answer
                changes on few images, often not on the first.
        """
        likelihood, found = likelihood_of(self._model), torch.empty(0, dtype=torch.float64)
        against = None if best is None or self._measure == "top1" else torch.from_numpy(best)
        with simulated(self._layers, self.settings(bits), self._rounder):
            size = BATCH if against is None else LEAST_SEEN  # fewer decide nothing
            for batch, _ in tensors(self._images, device_of(self._model), batch_size=size):
                own = slice(len(found), len(found) + len(batch))
                labels = None if self._labels is None else self._labels[own]
                outputs = self._model(batch).float().cpu()
                losses = image_losses(outputs, self._reference[own], labels, self._measure, likelihood)
                found = torch.cat([found, losses])
                if against is not None and not perhaps_lower(found, against[: len(found)], len(against)):
                    break
        values: npt.NDArray[np.float64] = found.numpy()
        return values

    def agreement(self, bits: Mapping[str, Bits]) -> tuple[float, int]:
        """Fraction of images with the same top-1 answer as the float model, and the number of images.

        Raises:
            UsageError: the model is not a classifier.
        """
        if likelihood_of(self._model) is not CLASSES:
            raise UsageError(
                "only classifiers have an agreement of top-1 answers", hint="give the budget in bits, size or time"
            )
        logits = self._logits(bits)
        same = (logits.argmax(-1) == self._reference.argmax(-1)).double().mean()
        return float(same), len(logits)

    def _logits(self, bits: Mapping[str, Bits]) -> torch.Tensor:
        with simulated(self._layers, self.settings(bits), self._rounder):
            return logits_of(self._model, self._images)

    @torch.no_grad()
    def reconstruction_errors(self, bits: Mapping[str, Bits]) -> dict[str, float]:
        """L_i = |What Xhat - W X|^2 / |W X|^2 for every layer.

        The float outputs of one batch stay in memory while the quantized layers process the same batch.
        """
        noise = dict.fromkeys((u.name for u in self._layers), 0.0)
        power = dict.fromkeys((u.name for u in self._layers), 0.0)
        kept: dict[str, torch.Tensor] = {}
        settings = self.settings(bits)

        def keep(layer: ModelLayer) -> Any:
            def visit(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
                kept[layer.name] = inputs[0] if self._inputs == "float" else output
                power[layer.name] += float((output - _bias_view(layer, output)).square().sum(dtype=torch.float64))

            return visit

        def compare(layer: ModelLayer) -> Any:
            def visit(_: torch.nn.Module, __: Any, output: torch.Tensor) -> None:
                noise[layer.name] += float((output - kept.pop(layer.name)).square().sum(dtype=torch.float64))

            return visit

        for batch, _ in tensors(self._error_images, device_of(self._model), batch_size=ERROR_BATCH):
            with hooked(self._layers, keep):
                self._model(batch)
            if self._inputs == "quantized":
                with hooked(self._layers, compare), simulated(self._layers, settings, self._rounder):
                    self._model(batch)
                continue
            for layer in self._layers:
                values = kept.pop(layer.name)
                reference = layer.module(values)
                with simulated([layer], settings, self._rounder):
                    noise[layer.name] += float((layer.module(values) - reference).square().sum(dtype=torch.float64))
        tiny = float(torch.finfo(torch.float64).tiny)
        return {layer.name: noise[layer.name] / max(power[layer.name], tiny) for layer in self._layers}


def _bias_view(layer: ModelLayer, output: torch.Tensor) -> torch.Tensor:
    """The bias, shaped to be subtracted from the layer's output: L_i compares W X, which excludes the bias."""
    bias = layer.module.bias
    if bias is None:
        return torch.zeros((), device=output.device)
    return bias.view(-1, 1, 1) if isinstance(layer.module, torch.nn.Conv2d) else bias
