"""One loaded model through all of the front end's stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from lampq_onnx.artifacts import BitPlan, Sensitivities, UnitSensitivity
from lampq_onnx.artifacts.plan import FIXED_BITS
from lampq_onnx.converter.passes.base import Parameters
from lampq_onnx.data import ImageSource
from lampq_onnx.data.npz import ArrayReader
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.alpha import type_factors
from lampq_onnx.frontend.batching import BATCH, Images, SlicedImages, logits_of, tensors
from lampq_onnx.frontend.calibration import choose_ranges, nuclear_norms
from lampq_onnx.frontend.digits import split_images
from lampq_onnx.frontend.evaluator import SimulationEvaluator
from lampq_onnx.frontend.export import Exported, export_model
from lampq_onnx.frontend.fisher import fisher_traces
from lampq_onnx.frontend.hessians import input_moments
from lampq_onnx.frontend.loading import DIGITS, LoadedModel, load_digits, load_timm
from lampq_onnx.frontend.simulation import WeightRounder, simulated_parameters
from lampq_onnx.options import AnalysisOptions, ImageOptions, ModelOptions, UpdateOptions
from lampq_onnx.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight

HELD_OUT_SHARE = 4
"""One in four calibration images chooses between ranges that the others give."""

NUCLEAR_IMAGES = 8
ERROR_IMAGES = 64
"""Enough for averages over 197 tokens an image; the score uses all calibration images."""


class Frontend:
    """A float model, its units and everything that is measured on them in PyTorch.

    Args:
        loaded: the model.

    Attributes:
        exported: float graph and units.
        rounder: rounded weights by unit and width.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.exported: Exported = export_model(loaded)
        self.rounder = WeightRounder(self.exported.units)

    @property
    def model(self) -> ir.Model:
        """The float graph."""
        return self.exported.model

    def use_gptq(self, images: Images, *, progress: ProgressSink = NO_PROGRESS) -> None:
        """From here on, round the weights of Linear units by GPTQ on the inputs that ``images`` give them."""
        linear = [unit for unit in self.exported.units if isinstance(unit.module, torch.nn.Linear)]
        with progress.stage("input moments"):
            moments = input_moments(self.loaded.module, linear, images)
        self.rounder = WeightRounder(self.exported.units, moments)

    def settle_rounding(self, plan: BitPlan, images: SlicedImages, options: UpdateOptions) -> None:
        """Keep GPTQ for this plan only if it brings the model's outputs closer to float than nearest rounding.

        Layer errors cannot tell: on models with massive activations GPTQ lowers them and ruins the model.
        """
        bits = {name: layer.weight_bits for name, layer in plan.layers.items() if layer.quantized and not layer.fixed}
        clever, plain = self.rounder, WeightRounder(self.exported.units)
        clever_score = self.evaluator(plan, images, options).score(bits)
        self.rounder = plain
        if clever_score < self.evaluator(plan, images, options).score(bits):
            self.rounder = clever

    def rounded_weights(self, plan: BitPlan) -> dict[str, QuantizedWeight]:
        """Weights of the plan's quantized layers, as the simulation has them."""
        return {
            name: self.rounder.quantized(name, layer.weight_bits)
            for name, layer in plan.layers.items()
            if layer.quantized
        }

    def analyze(
        self,
        images: SlicedImages,
        options: AnalysisOptions,
        *,
        seed: int,
        progress: ProgressSink = NO_PROGRESS,
    ) -> Sensitivities:
        """Ranges, traces, rounding errors and alpha on calibration images.

        Raises:
            LampqError: labels are asked for and unknown, or a layer cannot be measured.
        """
        module, units = self.loaded.module, self.exported.units
        count = len(images)
        held = max(1, count // HELD_OUT_SHARE)
        fit, held_out = (
            (images.slice(0, count - held), images.slice(count - held, count)) if count > 1 else (images, images)
        )
        with progress.stage("ranges"):
            widths = {unit.name: FIXED_BITS if unit.fixed else options.activation_bits for unit in units}
            ranges = choose_ranges(module, units, fit, held_out, bits=widths, seed=seed)
        with progress.stage("traces", count) as advance:
            traces = fisher_traces(module, units, self._labelled(images, options.labels), seed=seed, progress=advance)
        with progress.stage("weight errors", len(units)) as advance:
            errors = {}
            for done, unit in enumerate(units, 1):
                errors[unit.name] = {b: self.rounder.grid(unit.name, b).error for b in options.candidates}
                advance(done)
        with progress.stage("nuclear norms"):
            norms = nuclear_norms(module, units, images.slice(0, NUCLEAR_IMAGES))
        activations = {
            name: ActivationQuantizer.from_range(r.low, r.high, options.activation_bits) for name, r in ranges.items()
        }
        alpha_bits = options.alpha_bits or min(options.candidates)
        with progress.stage("alpha", 4 * options.alpha_samples) as advance:
            reference = logits_of(module, images)
            result = type_factors(
                module, units, traces, activations, self.rounder, images, reference, self._labels(images),
                bits=alpha_bits, measure=options.alpha_measure, samples=options.alpha_samples, progress=advance,
            )  # fmt: skip
        return Sensitivities(
            model=self.loaded.identity,
            units=tuple(
                UnitSensitivity(
                    name=unit.name,
                    type=unit.type,
                    parameters=unit.parameters,
                    shape=unit.matrix().shape,
                    fixed=unit.fixed,
                    trace=traces[unit.name],
                    nuclear_norm=norms[unit.name],
                    weight_error=errors[unit.name],
                    activation_range=ranges[unit.name],
                )
                for unit in units
            ),
            alpha=result.alpha,
            alpha_loss=result.losses,
            alpha_floored=result.floored,
            alpha_bits=alpha_bits,
            alpha_measure=options.alpha_measure,
            activation_bits=options.activation_bits,
            labels=options.labels,
            calibration_images=count,
            seed=seed,
            skipped=self.exported.skipped,
        )

    def evaluator(self, plan: BitPlan, images: SlicedImages, options: UpdateOptions) -> SimulationEvaluator:
        """What the iterative update measures with, for assignments that differ from ``plan`` in weight bits only."""
        quantized = {name: layer for name, layer in plan.layers.items() if layer.quantized}
        activations = {
            name: ActivationQuantizer.from_range(
                layer.activation_range.low, layer.activation_range.high, layer.activation_bits
            )
            for name, layer in quantized.items()
            if layer.activation_range is not None
        }
        return SimulationEvaluator(
            self.loaded.module,
            self.exported.units,
            activations,
            self.rounder,
            images,
            images.slice(0, ERROR_IMAGES),
            logits_of(self.loaded.module, images),
            self._labels(images),
            fixed_bits={name: layer.weight_bits for name, layer in quantized.items() if layer.fixed},
            measure=options.measure,
            inputs=options.inputs,
        )

    @contextmanager
    def simulation(
        self, parameters: Parameters
    ) -> Iterator[Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]]:
        """Images -> logits of the quantized model in PyTorch, from the numbers that the file holds."""
        device = next(self.loaded.module.parameters()).device

        @torch.no_grad()
        def run(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
            pieces = [
                self.loaded.module(torch.from_numpy(images[i : i + BATCH]).to(device)).float().cpu().numpy()
                for i in range(0, len(images), BATCH)
            ]
            return np.concatenate(pieces)

        with simulated_parameters(self.exported.units, parameters):
            yield run

    def _labels(self, images: Images) -> torch.Tensor | None:
        return None if images.labels is None else torch.from_numpy(images.labels)

    def _labelled(self, images: Images, kind: str) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        device = next(self.loaded.module.parameters()).device
        for batch, labels in tensors(images, device):
            if kind == "given" and labels is None:
                raise LampqError(
                    "given labels are asked for and the calibration images have none",
                    hint="use labels sampled from the model, or give labelled images",
                )
            yield batch, labels if kind == "given" else None


def load_model(options: ModelOptions, images: ImageOptions) -> LoadedModel:
    """Load by name, on the device asked for, with preprocessing overrides.

    Raises:
        UsageError, LampqError: see `load_timm`; also an unknown device.
    """
    if options.name == DIGITS:
        if options.checkpoint or options.pretrained or options.model_args:
            raise UsageError(f"{DIGITS} is the embedded model: it takes no checkpoint, weights or model arguments")
        loaded = load_digits()
    else:
        loaded = load_timm(
            options.name,
            checkpoint=options.checkpoint,
            pretrained=options.pretrained,
            model_args=options.model_args,
        )
    try:
        device = torch.device(options.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise UsageError(f"device {options.device}: torch sees no CUDA device here")
        loaded.module.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {options.device!r} cannot be used: {error}") from error
    preprocessing = loaded.preprocessing.override(mean=images.mean, std=images.std, crop_pct=images.crop)
    return LoadedModel(loaded.module, preprocessing, loaded.identity)


def digits_source(part: Literal["calibration", "test"]) -> ImageSource:
    """Images of the embedded split."""
    pixels, labels = split_images(part)
    reader = ArrayReader(f"digits/{part}", pixels[..., 0])
    return ImageSource.whole(reader, len(pixels), labels, f"{len(pixels)} digits {part} images")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Torch's number of threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
