"""Train a rounded model for far longer than effort best does, and say whether that gains anything.

    python tools/bench/longer.py deit_tiny_patch16_224 --checkpoint deit_tiny.safetensors \\
        --calibration calibration/ --validation validation/ --bits 3 --activation-bits 8 --seed 0 --device cuda

The model is analyzed for effort best, groups of output channels get widths, and all layers are rounded one after the
other. Then all weights, scales, biases and input ranges are trained together, from that rounding or from the result of
effort best (--start best): the KL of the logits and the error of the blocks' outputs on random views of the calibration
images (crops down to --smallest-side, mirror images; --mixed is the share of views that are mixed with another one).
The learning rates are --rate times those of effort best, along a cosine over --steps; --minutes and --deadline cut the
training to the steps that fit. This is the last stage of effort max, with other settings.

Every line that is printed is one JSON record. Stage "best" (or "layers") is the rounding that training starts from,
and "longer" is what it ends with: KL on held-out calibration images, and figures on the validation images.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer

from lampq_onnx import allocation
from lampq_onnx.artifacts import BitPlan
from lampq_onnx.cli.parameters import run_tool, with_options
from lampq_onnx.config.inputs import DIGITS
from lampq_onnx.config.options import AnalysisOptions
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.sections import Values
from lampq_onnx.config.stages import Stages
from lampq_onnx.data import CroppedImages
from lampq_onnx.errors import UsageError
from lampq_onnx.evaluation.tasks.meters import open_validation
from lampq_onnx.frontend.likelihoods import likelihood_of
from lampq_onnx.frontend.measuring.samples import split
from lampq_onnx.frontend.models.digits import digits_source
from lampq_onnx.frontend.opening import calibration_images, load_model
from lampq_onnx.frontend.rounding.effort import EFFORTS
from lampq_onnx.frontend.rounding.ladder import Rounding, climb
from lampq_onnx.frontend.rounding.longer import LongerSettings, train_longer
from lampq_onnx.frontend.rounding.plan import LADDER_IMAGES, RoundedPlan, plan_inputs, with_inputs
from lampq_onnx.frontend.rounding.reconstruct import reconstruct
from lampq_onnx.frontend.rounding.trainable import Trained
from lampq_onnx.frontend.rounding.tune import tune
from lampq_onnx.frontend.rounding.views import SMALLEST_SIDE, ImagePool
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.batching import SlicedImages, device_of, logits_of, tensors
from lampq_onnx.frontend.shared.threads import torch_threads
from lampq_onnx.frontend.simulation.live import LiveModel, live_model
from lampq_onnx.quantization import ActivationQuantizer
from lampq_onnx.quantization.weights_file import save_weights
from lampq_onnx.running.progress import NO_PROGRESS

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.bench.ablation import evaluate
from tools.bench.ablation_table import COLUMNS

INPUTS = (3, 4, 5, 6, 8)


class Longest:
    """One plan, rounded and trained on, and what each state of it is worth.

    Args:
        frontend: the equalized model.
        plan: its widths and ranges.
        crops: calibration images; the last of them are held out.
        held_out: how many.
        measured: figures of a state on the validation images.
        say: is told the figures of each stage.
        save: file for the best weights.
    """

    def __init__(
        self,
        frontend: Frontend,
        plan: BitPlan,
        crops: SlicedImages,
        measured: Callable[[RoundedPlan], dict[str, float]],
        say: Callable[..., None],
        save: Path | None,
        held_out: int,
    ) -> None:
        self._frontend, self._plan, self._measured, self._say, self._save = frontend, plan, measured, say, save
        self._model, self._layers = frontend.loaded.module, frontend.exported.layers
        count = len(crops)
        self._fit, self._held_out = crops.slice(0, count - held_out), crops.slice(count - held_out, count)
        self._few_held_out = split(crops)[1]
        self._images = [batch for batch, _ in tensors(self._fit, device_of(self._model))]
        self._blocks = [block.module for block in frontend.chain.blocks]
        self._reference = logits_of(self._model, self._held_out)

    def round(self, start: str, seed: int) -> tuple[Mapping[str, Rounding], Mapping[str, ActivationQuantizer]]:
        """Round the layers as effort best does, up to ``start``."""
        effort, chain, say = EFFORTS["best"], self._frontend.chain, self._say
        assert effort.ladder is not None
        quantized = {name: layer for name, layer in self._plan.layers.items() if layer.quantized}
        grids = {name: self._frontend.rounder.grid(name, layer.widths) for name, layer in quantized.items()}
        inputs: Mapping[str, ActivationQuantizer] = plan_inputs(self._plan)
        few = self._fit.slice(0, LADDER_IMAGES)
        with live_model(self._model, self._layers) as live:
            found: Mapping[str, Rounding] = climb(live, chain, grids, inputs, few, self._few_held_out, effort.ladder)
            least = self._judge()
            say("layers", held_out=least)
            if start == "best" and effort.reconstruct is not None and effort.tune is not None:
                found, inputs = reconstruct(
                    live, chain, found, inputs, few, self._few_held_out, effort.reconstruct, seed=seed
                )
                least = self._judge()
                say("blocks", held_out=least)
                pool = ImagePool(self._images, seed)
                tuned = tune(live, found, inputs, pool, self._blocks, effort.tune, seed=seed)
                _take(live, tuned)
                after = self._judge()
                if after < least:
                    least = after
                    found = {name: Rounding(own.weight, "tuned", own.latent, {}) for name, own in tuned.items()}
                    inputs = {name: own.input for name, own in tuned.items() if own.input is not None}
        best = {name: Trained(own.weight, inputs.get(name), torch.empty(0)) for name, own in found.items()}
        say(start, held_out=least, **self._measured(self._rounded(best)))
        return found, inputs

    def train(
        self,
        found: Mapping[str, Rounding],
        inputs: Mapping[str, ActivationQuantizer],
        settings: LongerSettings,
        seed: int,
        seconds: float,
    ) -> None:
        """Train all layers from a rounding, and measure the result."""
        start = time.perf_counter()

        def done_at(step: int) -> float:
            return max(step / settings.steps, (time.perf_counter() - start) / seconds)

        steps = 0

        def count(step: int) -> None:
            nonlocal steps
            steps = step

        with live_model(self._model, self._layers) as live:
            state = train_longer(
                live, found, inputs, self._images, self._blocks, settings, seed=seed, progress=count, done_at=done_at
            )
            if state is None:
                self._say("longer", steps=steps, diverged=True)
                return
            _take(live, state)
            loss = self._judge()
        if self._save is not None:
            save_weights({name: own.weight for name, own in state.items()}, self._save)
        self._say("longer", steps=steps, held_out=loss, **self._measured(self._rounded(state)))

    def _judge(self) -> float:
        """KL on the held-out images."""
        outputs = logits_of(self._model, self._held_out)
        return float(likelihood_of(self._model).distance(outputs, self._reference).mean())

    def _rounded(self, state: Mapping[str, Trained]) -> RoundedPlan:
        ranges = {name: layer.input for name, layer in state.items() if layer.input is not None}
        weights = {name: layer.weight for name, layer in state.items()}
        return RoundedPlan(with_inputs(self._plan, ranges), weights, dict.fromkeys(weights, "longer"), {})


def _take(live: LiveModel, state: Mapping[str, Trained]) -> None:
    """Let the model compute with a state."""
    for name, layer in state.items():
        live.set_weight(name, layer.weight)
        live.set_input(name, layer.input)


@with_options("model", "images", without=("--effort",))
def main(
    *,
    model: Annotated[str, typer.Argument(help="A timm model name, or digits.")] = DIGITS,
    bits: Annotated[float, typer.Option(help="Average weight bits.")] = 3.0,
    activation_bits: Annotated[str, typer.Option(help="Width of all inputs; mixed: of each its own.")] = "8",
    activation_budget: Annotated[float, typer.Option(help="Average width of the inputs, with mixed.")] = 4.0,
    start: Annotated[str, typer.Option(help="Rounding to start from: layers or best.")] = "layers",
    steps: Annotated[int, typer.Option(min=0, help="Training steps.")] = 10_000,
    minutes: Annotated[float, typer.Option(help="Minutes that training may take.")] = 60.0,
    deadline: Annotated[
        float | None, typer.Option(help="Seconds after the start of the program at which training ends at the latest.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Views per step.")] = 32,
    rate: Annotated[float, typer.Option(help="Learning rates, in those of effort best.")] = 0.3,
    smallest_side: Annotated[float, typer.Option(help="Smallest side of a crop, of the image's side.")] = SMALLEST_SIDE,
    mixed: Annotated[float, typer.Option(help="Share of the views that are mixed with another one.")] = 0.0,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch.")] = 1,
    held_out: Annotated[int, typer.Option(min=64, help="Calibration images that choose the state to keep.")] = 64,
    save: Annotated[Path | None, typer.Option(help="File for the best weights.")] = None,
    values: Values,
) -> None:
    """Train a rounded model for long, and print what each state loses."""
    if start not in ("layers", "best"):
        raise UsageError(f"--start must be layers or best, not {start!r}")
    recipe = Recipe.build({"analysis": {"effort": "best"}}, values, {"model": {"name": model}})
    begun = time.perf_counter()

    def say(stage: str, **found: object) -> None:
        record = {"stage": stage, "t": round(time.perf_counter() - begun, 1), **found}
        print(json.dumps(record), flush=True)

    settings = LongerSettings(
        steps=max(1, steps), batch_size=batch_size, rate=rate, smallest_side=smallest_side, mixed=mixed
    )
    images, seed = recipe.images, recipe.images.seed
    widths = {"activation_bits": activation_bits, "activation_budget": activation_budget}
    if activation_bits != "mixed":
        del widths["activation_budget"]
    options = allocation.AllocationOptions.of(
        bits=bits, metric="kl", granularity="layer" if activation_bits == "same" else "group",
        activation_candidates=INPUTS, **widths,
    )  # fmt: skip
    say("settings", model=model, bits=bits, inputs=activation_bits, seed=seed, start=start, **asdict(settings))
    with torch_threads(threads):
        frontend = Frontend(load_model(recipe.model, images))
        loaded = frontend.loaded
        tested = digits_source("test")
        if images.validation is not None:
            tested = open_validation(images.validation, loaded.task, loaded.identity.num_classes)
        source = calibration_images(loaded, frontend.exported.layers, images, "best", NO_PROGRESS)
        with CroppedImages(*source) as crops, CroppedImages(tested, loaded.preprocessing) as validation:
            floats = logits_of(loaded.module, validation)
            asked = AnalysisOptions(
                activation_bits=options.activation_bits, activation_candidates=INPUTS, weight_bits=bits, effort="best",
                granularity=options.granularity,
            )  # fmt: skip
            frontend.equalize(crops, asked, seed=seed)
            frontend.use_gptq(crops, widths=options.candidates)
            stages = Stages(
                measurements=frozenset({"weight_cost"}),
                input_costs="measured" if isinstance(options.activation_bits, str) else "none",
            )
            known = frontend.analyze(crops, asked, seed=seed, stages=stages)
            plan, _ = allocation.allocate(known, options)
            say("planned", average=plan.weight_average(), inputs=plan.activation_average())

            def measured(state: RoundedPlan) -> dict[str, float]:
                found = evaluate(frontend, state, validation, floats)
                return {name: round(read(found), digits) for name, digits, read in COLUMNS}

            longest = Longest(frontend, plan, crops, measured, say, save, held_out)
            found, inputs = longest.round(start, seed)
            if steps:
                seconds = 60 * minutes
                if deadline is not None:
                    seconds = min(seconds, deadline - (time.perf_counter() - begun))
                longest.train(found, inputs, settings, seed, max(1.0, seconds))


if __name__ == "__main__":
    run_tool(main)
