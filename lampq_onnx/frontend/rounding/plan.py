"""Rounds the weights of a plan and finds its input ranges: all techniques in order, each kept only if it helps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from lampq_onnx.artifacts import ActivationRange, BitPlan
from lampq_onnx.frontend.likelihoods import likelihood_of
from lampq_onnx.frontend.rounding.effort import Effort
from lampq_onnx.frontend.rounding.ladder import Rounding, climb
from lampq_onnx.frontend.rounding.longer import train_longer
from lampq_onnx.frontend.rounding.reconstruct import reconstruct
from lampq_onnx.frontend.rounding.trainable import Trained
from lampq_onnx.frontend.rounding.tune import tune
from lampq_onnx.frontend.rounding.views import ImagePool
from lampq_onnx.frontend.shared.batching import SlicedImages, logits_of, tensors
from lampq_onnx.frontend.shared.kept import NOT_KEPT, Kept
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.threads import torch_threads
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.frontend.simulation.live import LiveModel, live_model
from lampq_onnx.frontend.simulation.losses import clearly_lower
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight
from lampq_onnx.running.progress import ProgressSink

LADDER_IMAGES = 128
"""Images that layers and blocks are rounded from; their moments do not need more. Tuning uses all images."""

TUNED = "+tuned"
"""Suffix of a technique's name if the whole model was tuned."""


TRAINED = "+trained"
"""The same if it was trained for long."""


@dataclass(frozen=True)
class RoundedPlan:
    """The input of the converter.

    Attributes:
        plan: the plan with the ranges that were found.
        weights: layer -> rounded weights.
        methods: layer -> technique.
        losses: stage -> KL to float on the held-out calibration images after it, also for stages that were undone.
        kept: stage -> whether its result was kept.
    """

    plan: BitPlan
    weights: Mapping[str, QuantizedWeight]
    methods: Mapping[str, str]
    losses: Mapping[str, float]
    kept: Mapping[str, bool] = field(default_factory=dict)


def round_plan(
    model: torch.nn.Module,
    layers: tuple[ModelLayer, ...],
    chain: BlockChain,
    plan: BitPlan,
    rounder: WeightRounder,
    fit: SlicedImages,
    held_out: SlicedImages,
    effort: Effort,
    *,
    seed: int,
    training_threads: int,
    progress: ProgressSink,
    finished: Kept = NOT_KEPT,
) -> RoundedPlan:
    """Round the weights of a plan.

    Args:
        model: the float model.
        layers: its layers.
        chain: its blocks.
        plan: bit-widths and input ranges.
        rounder: grids of the weights.
        fit: images that the rounding is computed from.
        held_out: images that decide what is kept.
        effort: which techniques run.
        seed: seed of views, drops and sampled labels.
        training_threads: threads of the stages that train.
        progress: told of each stage.
        finished: layers, blocks and the tuning that an earlier run finished. The long training is the last stage, and
            is kept with the whole result.
    """
    assert effort.ladder is not None
    quantized = {name: layer for name, layer in plan.layers.items() if layer.quantized}
    grids = {name: rounder.grid(name, layer.widths) for name, layer in quantized.items()}
    inputs = plan_inputs(plan)
    losses: dict[str, float] = {}
    kept: dict[str, bool] = {}
    with live_model(model, layers) as live:
        with live.in_float():
            reference = logits_of(model, held_out)

        def each() -> torch.Tensor:
            return likelihood_of(model).distance(logits_of(model, held_out), reference)

        def judge() -> float:
            return float(each().mean())

        with progress.stage("rounding", len(grids)) as advance:
            few = fit.slice(0, LADDER_IMAGES)
            roundings = climb(live, chain, grids, inputs, few, held_out, effort.ladder, progress=advance, kept=finished)
        losses["layers"], kept["layers"] = judge(), True
        if effort.reconstruct is not None:
            with torch_threads(training_threads), progress.stage("block reconstruction", len(chain)) as advance:
                roundings, inputs = reconstruct(
                    live,
                    chain,
                    roundings,
                    inputs,
                    few,
                    held_out,
                    effort.reconstruct,
                    seed=seed,
                    progress=advance,
                    kept=finished,
                )
            losses["blocks"] = judge()
            kept["blocks"] = losses["blocks"] < losses["layers"]
        if effort.tune is not None:
            with torch_threads(training_threads), progress.stage("tuning", effort.tune.steps) as advance:
                blocks = [block.module for block in chain.blocks]
                settings = effort.tune

                def train() -> dict[str, Trained]:
                    pool = ImagePool([batch for batch, _ in tensors(fit, live.device)], seed)
                    return tune(live, roundings, inputs, pool, blocks, settings, seed=seed, progress=advance)

                # As the last stage it is kept with the whole result.
                tuned = train() if effort.longer is None else finished.get("tuning", train, part=True)
            before = list(losses.values())[-1]
            _use(live, tuned)
            losses["tuned"] = judge()
            kept["tuned"] = losses["tuned"] < before
            if kept["tuned"]:
                roundings, inputs = _taken(tuned, roundings, TUNED)
        if effort.longer is not None:
            for name, own in roundings.items():
                live.set_weight(name, own.weight)
                live.set_input(name, inputs.get(name))
            without = each()
            with torch_threads(training_threads), progress.stage("long training", effort.longer.steps) as advance:
                images = [batch for batch, _ in tensors(fit, live.device)]
                blocks = [block.module for block in chain.blocks]
                longer = train_longer(
                    live, roundings, inputs, images, blocks, effort.longer, seed=seed, progress=advance
                )
            _use(live, longer or {})
            after = each()
            losses["long training"] = float(after.mean())
            # A few held-out images decide: what it gains on others is less than their spread.
            kept["long training"] = bool(longer and torch.isfinite(after).all()) and not clearly_lower(without, after)
            if longer is not None and kept["long training"]:
                roundings, inputs = _taken(longer, roundings, TRAINED)
    return RoundedPlan(
        plan=with_inputs(plan, inputs),
        weights={name: rounding.weight for name, rounding in roundings.items()},
        methods={name: rounding.method for name, rounding in roundings.items()},
        losses=losses,
        kept=kept,
    )


def _use(live: LiveModel, trained: Mapping[str, Trained]) -> None:
    """Put trained weights and quantizers of inputs into the model."""
    for name, layer in trained.items():
        live.set_weight(name, layer.weight)
        live.set_input(name, layer.input)


def _taken(
    trained: Mapping[str, Trained], roundings: Mapping[str, Rounding], suffix: str
) -> tuple[dict[str, Rounding], dict[str, ActivationQuantizer]]:
    """Return trained layers as roundings, with a suffix on the names of their techniques, and quantizers of inputs."""
    found = {
        name: Rounding(layer.weight, roundings[name].method + suffix, layer.latent, roundings[name].losses)
        for name, layer in trained.items()
    }
    return found, {name: layer.input for name, layer in trained.items() if layer.input is not None}


def plan_inputs(plan: BitPlan) -> dict[str, ActivationQuantizer]:
    """Layer -> input quantizer, for the layers of a plan with quantized inputs."""
    return {
        name: ActivationQuantizer.from_range(
            layer.activation_range.low, layer.activation_range.high, layer.activation_bits
        )
        for name, layer in plan.layers.items()
        if layer.quantized and layer.input_quantized and layer.activation_range is not None
    }


def with_inputs(plan: BitPlan, inputs: Mapping[str, ActivationQuantizer]) -> BitPlan:
    """The plan with the ranges of ``inputs`` where they differ from its own."""
    known = plan_inputs(plan)
    layers = dict(plan.layers)
    for name, quantizer in inputs.items():
        if quantizer != known.get(name):
            # Double precision reproduces the scale exactly.
            top = 2**quantizer.bits - 1
            low, high = -quantizer.zero_point * quantizer.scale, (top - quantizer.zero_point) * quantizer.scale
            interval = ActivationRange(low=low, high=high, method="tuned")
            layers[name] = layers[name].model_copy(update={"activation_range": interval})
    return plan.model_copy(update={"layers": layers})
