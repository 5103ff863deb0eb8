"""Measures the sensitivities of all layers: input ranges, traces, alpha, rounding errors and costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from lampq_onnx.artifacts import ActivationRange, LayerSensitivity, Sensitivities
from lampq_onnx.artifacts.plan import FIXED_BITS, WIDE_ACTIVATION_BITS
from lampq_onnx.artifacts.timed import timed_elements
from lampq_onnx.config.options import AnalysisOptions
from lampq_onnx.config.stages import Stages, shares_channels
from lampq_onnx.frontend.likelihoods import answers_of
from lampq_onnx.frontend.measuring.alpha import NO_ALPHA, AlphaResult, type_factors
from lampq_onnx.frontend.measuring.calibration import choose_ranges, input_elements, nuclear_norms, product_ranges
from lampq_onnx.frontend.measuring.channels import channel_shares
from lampq_onnx.frontend.measuring.costs import batch_of_halves, directional_costs, measured_widths, weight_costs
from lampq_onnx.frontend.measuring.fisher import fisher_traces
from lampq_onnx.frontend.measuring.hessians import input_moments
from lampq_onnx.frontend.measuring.input_costs import InputRanges, input_costs, quantizer_of
from lampq_onnx.frontend.measuring.samples import SHARE_IMAGES, labels_of, require_labels, split
from lampq_onnx.frontend.rounding.effort import EFFORTS
from lampq_onnx.frontend.shared.batching import SlicedImages, device_of, logits_of, tensors
from lampq_onnx.frontend.shared.kept import NOT_KEPT, Kept
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.model_layers import Exported, ModelLayer
from lampq_onnx.frontend.shared.threads import SUM_THREADS, torch_threads
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.frontend.simulation.live import live_model
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.graph.model_file import float_numbers, model_bytes
from lampq_onnx.running.processes import ALONE, Group
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink

RANGE_IMAGES = 256
TRACE_IMAGES = 128
"""Largest number of images for Fisher traces.

Means and ranges over these images represent the whole set, which is only needed for training.
"""

NUCLEAR_IMAGES = 8
ALPHA_IMAGES = 32


@dataclass(frozen=True)
class Analysis:
    """One model and the images it is measured on.

    Attributes:
        loaded: the float model.
        exported: its graph and layers.
        chain: its transformer blocks.
        rounder: rounded weights, before the plan's own rounding improves them.
        images: calibration images.
        gptq: whether weights are rounded by GPTQ; costs then use weights rounded on one half of the images.
        group: processes that share the images of ranges, traces, norms, moments and costs.
        products: measure the ranges of the layers' products as well.
    """

    loaded: LoadedModel
    exported: Exported
    chain: BlockChain
    rounder: WeightRounder
    images: SlicedImages
    gptq: bool
    group: Group = ALONE
    products: bool = False

    @property
    def budgeted(self) -> tuple[ModelLayer, ...]:
        """Layers in the budget."""
        return tuple(layer for layer in self.exported.layers if not layer.fixed)

    def run(
        self,
        options: AnalysisOptions,
        stages: Stages,
        *,
        seed: int,
        equalized: Mapping[str, str],
        progress: ProgressSink = NO_PROGRESS,
        kept: Kept = NOT_KEPT,
    ) -> Sensitivities:
        """Measure the ranges, and what ``stages`` asks for.

        Args:
            options: how to measure.
            stages: what to measure.
            seed: seed of sampled labels and gradients.
            equalized: layer -> how its input channels were equalized; recorded in the result.
            progress: told of each stage.
            kept: results of steps that an earlier run finished.

        Raises:
            LampqError: a layer cannot be measured.
        """
        module, layers, images, asked = self.loaded.module, self.exported.layers, self.images, stages.measurements
        effort = EFFORTS[options.effort]
        count = len(images)
        seen = images.slice(0, RANGE_IMAGES)
        _, held_out = split(seen)
        widths = self._input_widths(options)
        with progress.stage("ranges", len(held_out)) as advance:
            ranges, range_costs = choose_ranges(
                module, layers, seen, held_out, widths=widths, seed=seed, group=self.group, progress=advance
            )
        products = product_ranges(module, layers, seen, group=self.group) if self.products else {}
        traces: dict[str, float] = {}
        if "trace" in asked:
            with progress.stage("traces", min(count, TRACE_IMAGES)) as advance:
                batches = self._labelled(options.labels)
                traces = fisher_traces(module, layers, batches, seed=seed, group=self.group, progress=advance)
        errors: dict[str, dict[int, float]] = {}
        if "weight_error" in asked:
            with progress.stage("weight errors", len(layers)) as advance:
                for done, layer in enumerate(layers, 1):
                    errors[layer.name] = {b: self.rounder.grid(layer.name, b).error for b in options.candidates}
                    advance(done)
        norms: dict[str, float] = {}
        if "nuclear_norm" in asked:
            with progress.stage("nuclear norms"):
                norms = nuclear_norms(module, layers, images.slice(0, NUCLEAR_IMAGES), group=self.group)
        alpha_bits = options.alpha_bits or min(options.candidates)
        main = options.activation_bits if isinstance(options.activation_bits, int) else FIXED_BITS
        alpha = NO_ALPHA
        if "alpha" in asked:
            alpha = self._alpha(options, alpha_bits, ranges, traces, progress)
        costs: dict[str, dict[int, float]] = {}
        if "weight_cost" in asked:
            costs = kept.get(
                "costs",
                lambda: self._weight_costs(options, effort.costs, effort.cost_images, seed, progress),
                part=True,
            )
        elements, computed = self._input_elements()
        timed = {
            layer.name: timed_elements(elements[layer.name], computed[layer.name], layer.module.weight[0].numel())
            for layer in layers
        }
        answers = answers_of(self.loaded.task, logits_of(module, seen.slice(0, 1)))
        narrowed = input_costs(
            module, layers, self.chain, held_out, InputRanges(ranges, range_costs, widths, timed),
            stages.input_costs, wide_price=stages.wide_price * answers, progress=progress, group=self.group,
        )  # fmt: skip
        shares = {}
        if "alpha" not in asked:
            self._prepare(progress)
        if stages.shares and shares_channels(options.granularity, options.effort, options.activation_bits):
            shares = self._channel_shares(options, seed, progress)
        return Sensitivities(
            model=self.loaded.identity,
            layers=tuple(
                LayerSensitivity(
                    name=layer.name,
                    type=layer.type,
                    parameters=layer.parameters,
                    shape=layer.matrix().shape,
                    fixed=layer.fixed,
                    float_input=layer.float_input,
                    trace=traces.get(layer.name),
                    nuclear_norm=norms.get(layer.name),
                    weight_error=errors.get(layer.name, {}),
                    weight_cost=costs.get(layer.name, {}),
                    channel_shares=shares.get(layer.name),
                    activation_range=ranges[layer.name].get(main) or ranges[layer.name][max(ranges[layer.name])],
                    activation_ranges=ranges[layer.name],
                    output_range=products.get(layer.name),
                    activation_cost=narrowed.get(layer.name, {}),
                    activation_elements=elements[layer.name],
                    computed_elements=computed[layer.name] if computed[layer.name] < elements[layer.name] else None,
                )
                for layer in layers
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
            cost_estimator=effort.costs if costs else "none",
            equalized=dict(equalized),
            skipped=self.exported.skipped,
            float_bytes=model_bytes(self.exported.model),
            float_numbers=float_numbers(self.exported.model),
            answers=answers,
        )

    def _input_widths(self, options: AnalysisOptions) -> dict[str, tuple[int, ...]]:
        asked = options.activation_bits
        if asked == "mixed":
            own = tuple(sorted({*options.activation_candidates, FIXED_BITS, WIDE_ACTIVATION_BITS}))
        elif asked == "same":
            own = tuple(sorted({*(max(b, 2) for b in options.candidates), FIXED_BITS}))
        else:
            own = tuple(sorted({asked, WIDE_ACTIVATION_BITS}))
        return {layer.name: (FIXED_BITS,) if layer.fixed else own for layer in self.exported.layers}

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
        activations = {layer.name: quantizer_of(ranges[layer.name][width], width) for layer in self.budgeted}
        self._prepare(progress)
        with progress.stage("alpha", 4 * options.alpha_samples) as advance:
            return type_factors(
                module, self.exported.layers, traces, activations, self.rounder, images, logits_of(module, images),
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
        """Measure the costs of weights.

        Weights are rounded on one half of the images and measured on the other half, so that no rounding is judged on
        the images that it was fitted to.
        """
        count = len(self.images)
        half = max(1, count // 2)
        fit, held_out = self.images.slice(0, count - half), self.images.slice(count - half, count)
        if count == 1:
            fit = held_out = self.images
        held_out = held_out.slice(0, most)
        own = partial(
            WeightRounder, self.exported.layers, grids=self.rounder.grids, block=self.rounder.block, fitted=self.rounder
        )
        rounder = own()
        if self.gptq:
            with progress.stage("cost candidates"):
                moments = input_moments(self.loaded.module, linear_layers(self.budgeted), fit, group=self.group)
                rounder = own(moments, widths=options.candidates)
                keep = options.candidates
                if estimator == "measured":
                    keep = measured_widths(options.candidates, options.weight_bits)
                for layer in self.budgeted:
                    rounder.settle(layer.name, keep)
        if estimator == "directional":
            with progress.stage("costs", len(held_out)) as advance:
                return directional_costs(
                    self.loaded.module, held_out, self.budgeted, rounder, options.candidates, seed=seed,
                    progress=advance, group=self.group,
                )  # fmt: skip
        settings = len(self.budgeted) * len(measured_widths(options.candidates, options.weight_bits))
        with (
            progress.stage("costs", settings) as advance,
            live_model(self.loaded.module, self.exported.layers) as live,
        ):
            return weight_costs(
                live, self.chain, held_out, self.budgeted, rounder, options.candidates,
                expected_bits=options.weight_bits, batch_size=batch_of_halves(len(held_out)), progress=advance,
                group=self.group,
            )  # fmt: skip

    def _channel_shares(
        self, options: AnalysisOptions, seed: int, progress: ProgressSink
    ) -> dict[str, tuple[float, ...]]:
        images = self.images.slice(0, SHARE_IMAGES)
        # The plan lists the channels in the order of their shares, which the last bits of sums may turn.
        with torch_threads(SUM_THREADS), progress.stage("channel shares", len(images)) as advance:
            return channel_shares(
                self.loaded.module, images, self.budgeted, self.rounder, options.candidates, seed=seed,
                group=self.group, progress=advance,
            )  # fmt: skip

    def _prepare(self, progress: ProgressSink) -> None:
        """Measure the moments for GPTQ, as late as possible: they take more memory than the model."""
        if self.gptq:
            with progress.stage("input moments"):
                self.rounder.prepare()

    def _input_elements(self) -> tuple[dict[str, int], dict[str, int]]:
        """Layer -> number of elements in its input for one image, all and those that the file computes."""
        image = next(tensors(self.images.slice(0, 1), device_of(self.loaded.module)))[0]
        whole = input_elements(self.loaded.module, self.exported.layers, image)
        with self.chain.class_row.only():
            return whole, input_elements(self.loaded.module, self.exported.layers, image)

    def _labelled(self, kind: str) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        device = next(self.loaded.module.parameters()).device
        require_labels(self.loaded, kind, self.images)
        for batch, labels in tensors(self.images.slice(0, TRACE_IMAGES), device, group=self.group, whole=True):
            yield batch, labels if kind == "given" else None


def linear_layers(layers: Sequence[ModelLayer]) -> list[ModelLayer]:
    """The layers that are torch.nn.Linear modules."""
    return [layer for layer in layers if isinstance(layer.module, torch.nn.Linear)]
