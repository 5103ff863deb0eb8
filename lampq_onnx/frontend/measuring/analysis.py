"""Sensitivities of all units: ranges, traces, alpha, rounding errors and costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from lampq_onnx.artifacts import ActivationRange, Sensitivities, UnitSensitivity
from lampq_onnx.artifacts.plan import FIXED_BITS, WIDE_ACTIVATION_BITS
from lampq_onnx.config.options import AnalysisOptions
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.measuring.alpha import AlphaResult, type_factors
from lampq_onnx.frontend.measuring.calibration import choose_ranges, input_elements, nuclear_norms
from lampq_onnx.frontend.measuring.costs import (
    FLOOR,
    activation_costs,
    directional_costs,
    measured_widths,
    weight_costs,
)
from lampq_onnx.frontend.measuring.fisher import fisher_traces
from lampq_onnx.frontend.measuring.hessians import input_moments
from lampq_onnx.frontend.rounding.effort import EFFORTS
from lampq_onnx.frontend.shared.batching import Images, SlicedImages, device_of, logits_of, tensors
from lampq_onnx.frontend.shared.kept import NOT_KEPT, Kept
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.units import Exported, Unit
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.frontend.simulation.live import live_model
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.graph.model_file import model_bytes
from lampq_onnx.quantization import ActivationQuantizer
from lampq_onnx.running.processes import ALONE, Group
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink

HELD_OUT_SHARE = 4
"""One in four calibration images chooses between what the others give."""

MOST_HELD_OUT = 64
"""Judging takes many passes; more images than these decide nothing else."""

RANGE_IMAGES = 256
TRACE_IMAGES = 128
"""Means and ranges over these stand for the whole set, which is for what is trained on it."""

NUCLEAR_IMAGES = 8
ALPHA_IMAGES = 32
INPUT_COST_IMAGES = 32
"""Costs of inputs decide only between widths that differ by much."""

BATCH = 32
"""Images of one pass of the many that costs are measured by."""


@dataclass(frozen=True)
class Analysis:
    """One model and the images it is measured on.

    Attributes:
        rounder: rounded weights as they are for the file, but for what the plan's own rounding improves.
        group: the processes that share the images of ranges, traces, norms and moments.
        gptq: whether weights are rounded by GPTQ; costs then come from weights that half of the images gave.
    """

    loaded: LoadedModel
    exported: Exported
    chain: BlockChain
    rounder: WeightRounder
    images: SlicedImages
    gptq: bool
    group: Group = ALONE

    @property
    def budgeted(self) -> tuple[Unit, ...]:
        """Units in the budget."""
        return tuple(unit for unit in self.exported.units if not unit.fixed)

    def run(
        self,
        options: AnalysisOptions,
        *,
        seed: int,
        equalized: Mapping[str, str],
        progress: ProgressSink = NO_PROGRESS,
        kept: Kept = NOT_KEPT,
    ) -> Sensitivities:
        """Measure everything.

        Raises:
            LampqError: a layer cannot be measured.
        """
        module, units, images = self.loaded.module, self.exported.units, self.images
        effort = EFFORTS[options.effort]
        count = len(images)
        fit, held_out = split(images.slice(0, RANGE_IMAGES))
        widths = self._input_widths(options)
        with progress.stage("ranges", len(held_out)) as advance:
            ranges = choose_ranges(
                module, units, fit, held_out, widths=widths, seed=seed, group=self.group, progress=advance
            )
        with progress.stage("traces", min(count, TRACE_IMAGES)) as advance:
            batches = self._labelled(options.labels)
            traces = fisher_traces(module, units, batches, seed=seed, group=self.group, progress=advance)
        with progress.stage("weight errors", len(units)) as advance:
            errors = {}
            for done, unit in enumerate(units, 1):
                errors[unit.name] = {b: self.rounder.grid(unit.name, b).error for b in options.candidates}
                advance(done)
        with progress.stage("nuclear norms"):
            norms = nuclear_norms(module, units, images.slice(0, NUCLEAR_IMAGES), group=self.group)
        alpha_bits = options.alpha_bits or min(options.candidates)
        main = options.activation_bits if isinstance(options.activation_bits, int) else FIXED_BITS
        alpha = self._alpha(options, alpha_bits, ranges, traces, progress)
        costs = kept.get(
            "costs", lambda: self._weight_costs(options, effort.costs, effort.cost_images, seed, progress), part=True
        )
        input_costs = self._input_costs(ranges, widths, progress)
        elements = self._input_elements()
        return Sensitivities(
            model=self.loaded.identity,
            units=tuple(
                UnitSensitivity(
                    name=unit.name,
                    type=unit.type,
                    parameters=unit.parameters,
                    shape=unit.matrix().shape,
                    fixed=unit.fixed,
                    float_input=unit.float_input,
                    trace=traces[unit.name],
                    nuclear_norm=norms[unit.name],
                    weight_error=errors[unit.name],
                    weight_cost=costs.get(unit.name, {}),
                    activation_range=ranges[unit.name].get(main) or ranges[unit.name][max(ranges[unit.name])],
                    activation_ranges=ranges[unit.name],
                    activation_cost=input_costs.get(unit.name, {}),
                    activation_elements=elements[unit.name],
                )
                for unit in units
            ),
            alpha=alpha.alpha,
            alpha_loss=alpha.losses,
            alpha_floored=alpha.floored,
            alpha_bits=alpha_bits,
            alpha_measure=options.alpha_measure,
            activation_bits=main,
            labels=options.labels,
            calibration_images=count,
            calibration_made=images.made,
            seed=seed,
            cost_estimator=effort.costs,
            equalized=dict(equalized),
            skipped=self.exported.skipped,
            float_bytes=model_bytes(self.exported.model),
        )

    def _input_widths(self, options: AnalysisOptions) -> dict[str, tuple[int, ...]]:
        asked = options.activation_bits
        if asked == "mixed":
            own = tuple(sorted({*options.activation_candidates, FIXED_BITS, WIDE_ACTIVATION_BITS}))
        elif asked == "same":
            own = tuple(sorted({*(max(b, 2) for b in options.candidates), FIXED_BITS}))
        else:
            own = tuple(sorted({asked, WIDE_ACTIVATION_BITS}))
        return {unit.name: (FIXED_BITS,) if unit.fixed else own for unit in self.exported.units}

    def _alpha(
        self,
        options: AnalysisOptions,
        bits: int,
        ranges: Mapping[str, Mapping[int, ActivationRange]],
        traces: Mapping[str, float],
        progress: ProgressSink,
    ) -> AlphaResult:
        module, images = self.loaded.module, self.images.slice(0, ALPHA_IMAGES)
        asked = options.activation_bits
        width = asked if isinstance(asked, int) else FIXED_BITS if asked == "mixed" else max(bits, 2)
        activations = {unit.name: quantizer_of(ranges[unit.name][width], width) for unit in self.budgeted}
        with progress.stage("alpha", 4 * options.alpha_samples) as advance:
            return type_factors(
                module, self.exported.units, traces, activations, self.rounder, images, logits_of(module, images),
                labels_of(images), bits=bits, measure=options.alpha_measure, samples=options.alpha_samples,
                progress=advance,
            )  # fmt: skip

    def _weight_costs(
        self,
        options: AnalysisOptions,
        estimator: Literal["measured", "directional"],
        most: int,
        seed: int,
        progress: ProgressSink,
    ) -> dict[str, dict[int, float]]:
        """From weights that one half of the images gave, on the other half: no rounding is judged on what it fits."""
        count = len(self.images)
        half = max(1, count // 2)
        fit, held_out = self.images.slice(0, count - half), self.images.slice(count - half, count)
        if count == 1:
            fit = held_out = self.images
        held_out = held_out.slice(0, most)
        rounder = WeightRounder(self.exported.units)
        if self.gptq:
            with progress.stage("cost candidates"):
                moments = input_moments(self.loaded.module, linear_units(self.budgeted), fit, group=self.group)
                rounder = WeightRounder(self.exported.units, moments, widths=options.candidates)
                for unit in self.budgeted:
                    rounder.quantized(unit.name, max(options.candidates))
        if estimator == "directional":
            with progress.stage("costs", len(held_out)) as advance:
                return directional_costs(
                    self.loaded.module, held_out, self.budgeted, rounder, options.candidates, seed=seed,
                    progress=advance,
                )  # fmt: skip
        settings = len(self.budgeted) * len(measured_widths(options.candidates, options.weight_bits))
        with (
            progress.stage("costs", settings) as advance,
            live_model(self.loaded.module, self.exported.units) as live,
        ):
            return weight_costs(
                live, self.chain, held_out, self.budgeted, rounder, options.candidates,
                expected_bits=options.weight_bits, batch_size=BATCH, progress=advance,
            )  # fmt: skip

    def _input_costs(
        self,
        ranges: Mapping[str, Mapping[int, ActivationRange]],
        widths: Mapping[str, Sequence[int]],
        progress: ProgressSink,
    ) -> dict[str, dict[int, float]]:
        _, held_out = split(self.images.slice(0, RANGE_IMAGES))
        quantizers = {
            unit.name: {
                width: quantizer_of(ranges[unit.name][width], width)
                for width in widths[unit.name]
                if width <= FIXED_BITS
            }
            for unit in self.budgeted
        }
        with (
            progress.stage("input costs", sum(map(len, quantizers.values()))) as advance,
            live_model(self.loaded.module, self.exported.units) as live,
        ):
            costs = activation_costs(
                live, self.chain, held_out.slice(0, INPUT_COST_IMAGES), quantizers, batch_size=BATCH, progress=advance
            )
        # 16 bits are 256 times finer than 8: what they cost is below what can be measured.
        return {name: {**own, WIDE_ACTIVATION_BITS: FLOOR} for name, own in costs.items()}

    def _input_elements(self) -> dict[str, int]:
        """Numbers in each unit's input for one image."""
        image = next(tensors(self.images.slice(0, 1), device_of(self.loaded.module)))[0]
        return input_elements(self.loaded.module, self.exported.units, image)

    def _labelled(self, kind: str) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        device = next(self.loaded.module.parameters()).device
        require_labels(self.loaded, kind, self.images)
        for batch, labels in tensors(self.images.slice(0, TRACE_IMAGES), device, group=self.group):
            yield batch, labels if kind == "given" else None


def require_labels(loaded: LoadedModel, kind: str, images: Images | None) -> None:
    """Refuse given labels that are none of the task, or that the images do not have.

    Args:
        kind: sampled or given.
        images: calibration images; None: they are not opened yet.
    """
    if kind != "given":
        return
    if loaded.task.kind != "classification":
        raise UsageError(
            f"given labels are classes, and the task is {loaded.task.kind}",
            hint="use labels sampled from the model, which is the default",
        )
    if images is not None and images.labels is None:
        raise LampqError(
            "given labels are asked for and the calibration images have none",
            hint="use labels sampled from the model, or give labelled images",
        )


def split(images: SlicedImages) -> tuple[SlicedImages, SlicedImages]:
    """Images to fit to, and images to judge by; a single image serves as both."""
    count = len(images)
    if count == 1:
        return images, images
    held = max(1, min(count // HELD_OUT_SHARE, MOST_HELD_OUT))
    return images.slice(0, count - held), images.slice(count - held, count)


def linear_units(units: Sequence[Unit]) -> list[Unit]:
    """Those that are Linear layers."""
    return [unit for unit in units if isinstance(unit.module, torch.nn.Linear)]


def labels_of(images: Images) -> torch.Tensor | None:
    """Labels (n,), if known."""
    return None if images.labels is None else torch.from_numpy(images.labels)


def quantizer_of(interval: ActivationRange, bits: int) -> ActivationQuantizer:
    """The quantizer of a range at a width."""
    return ActivationQuantizer.from_range(interval.low, interval.high, bits)
