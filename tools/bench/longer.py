"""Train a rounded model for far longer than effort best does, and say whether that gains anything.

    python tools/bench/longer.py deit_tiny_patch16_224 --checkpoint deit_tiny.safetensors \\
        --calibration calibration/ --validation validation/ --bits 3 --activation-bits 8 --seed 0 --device cuda

The model is analyzed for effort best, groups of output channels get widths, and all layers are rounded one after the
other. Then all weights, scales, biases and input ranges are trained together, from that rounding or from the result of
effort best (--start best): the KL of the logits and the error of the blocks' outputs on random views of the calibration
images (crops down to --smallest-side, mirror images; --mixed is the share of views that are mixed with another one).
The learning rates are --rate times those of effort best, along a cosine over --steps; --minutes cuts the training to
the steps that fit. After every twentieth of the steps the KL on held-out calibration images is taken, of the weights
and of their running average. The state with the lowest one is kept, and written to --save where given.

Every line that is printed is one JSON record; stage "longer" is the result on the validation images, "last" that of the
weights at the end, and "average" that of the running average at the end.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
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
from lampq_onnx.frontend.rounding.plan import LADDER_IMAGES, RoundedPlan, plan_inputs, with_inputs
from lampq_onnx.frontend.rounding.reconstruct import reconstruct
from lampq_onnx.frontend.rounding.trainable import TrainableLayer, Trained
from lampq_onnx.frontend.rounding.tune import (
    TuneSettings,
    _optimizer,
    _outputs_of,
    _path,
    _relative_error,
    float_copy,
    trained,
    tune,
)
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

AVERAGED_FROM = 0.3
"""Share of the training after which the running average is looked at."""

INPUTS = (3, 4, 5, 6, 8)
CHECKS = 20
AVERAGED = 0.999
"""Decay of the running average of all trained numbers, for each step."""


@dataclass(frozen=True)
class Longer:
    """How long, and on what."""

    steps: int
    minutes: float
    batch_size: int
    rate: float
    smallest_side: float
    mixed: float
    drop: float
    graph: bool


class Views:
    """Random views, some of them mixed with another one."""

    def __init__(self, batches: list[torch.Tensor], seed: int, settings: Longer) -> None:
        self._pool = ImagePool(batches, seed, smallest_side=settings.smallest_side)
        self._settings = settings
        self._generator = torch.Generator().manual_seed(seed + 1)

    def draw(self) -> torch.Tensor:
        """A batch."""
        count = self._settings.batch_size
        seen = self._pool.views(count)
        if self._settings.mixed > 0:
            share = torch.rand(count, generator=self._generator) / 2
            share = torch.where(torch.rand(count, generator=self._generator) < self._settings.mixed, share, 0.0)
            share = share.to(seen)[:, None, None, None]
            seen = seen * (1 - share) + seen.roll(1, 0) * share
        return seen


class Trainer:
    """All layers of a rounded model, trained together, one step after the other."""

    def __init__(
        self,
        live: LiveModel,
        roundings: Mapping[str, Rounding],
        inputs: Mapping[str, ActivationQuantizer],
        views: Views,
        blocks: list[torch.nn.Module],
        settings: Longer,
        seed: int,
    ) -> None:
        generator = torch.Generator(device=live.device).manual_seed(seed)
        self.layers = {
            name: TrainableLayer(
                live.layers[name].module, rounding, live.bias(name), inputs.get(name), drop=settings.drop,
                generator=generator,
            )
            for name, rounding in roundings.items()
        }  # fmt: skip
        self._live, self._views, self._settings = live, views, settings
        self._teacher = float_copy(live)
        self._feature_weight = TuneSettings().feature_weight
        self._likelihood = likelihood_of(live.model)
        self._optimizer = _optimizer(self.layers.values(), TuneSettings().rates)
        on_gpu = live.device.type == "cuda"
        self._base = [settings.rate * group["lr"] for group in self._optimizer.param_groups]
        for group in self._optimizer.param_groups:
            group["capturable"] = on_gpu
            group["lr"] = torch.tensor(0.0, device=live.device) if on_gpu else 0.0
        self._blocks = blocks
        self._twins = [self._teacher.get_submodule(_path(live, block)) for block in blocks]
        self._parameters: list[torch.Tensor] = [p for layer in self.layers.values() for p in layer.parameters()]
        self.average = [p.detach().clone() for p in self._parameters]
        self._input = views.draw().clone()
        self.loss = torch.zeros((), device=live.device)

    def run(self, check: Callable[[int, float, float], None]) -> int:
        """Train; ``check`` is called CHECKS times with the step, its share of the whole, and the mean loss."""
        steps, settings = self._settings.steps, self._settings
        with trained(self._live, self.layers), _outputs_of(self._blocks) as seen, _outputs_of(self._twins) as true:

            def work() -> None:
                with torch.no_grad():
                    wanted = self._teacher(self._input)
                with torch.enable_grad():
                    loss = self._likelihood.training_loss(self._live.model(self._input), wanted)
                    loss = loss + self._feature_weight * _relative_error(seen, true)
                    loss.backward()  # type: ignore[no-untyped-call]
                self.loss.add_(loss.detach())
                self._optimizer.step()
                with torch.no_grad():
                    torch._foreach_lerp_(self.average, self._parameters, 1 - AVERAGED)

            self._set_rate(0.0)
            # Products in TensorFloat-32 err by far less than a step of the quantized numbers.
            torch.set_float32_matmul_precision("high")
            replay = None
            if settings.graph and self._live.device.type == "cuda":
                try:
                    replay = self._captured(work)
                except RuntimeError as error:
                    print(f"steps run one operation at a time: {error}", file=sys.stderr)
            torch.set_float32_matmul_precision("highest")
            for p, own in zip(self._parameters, self.average, strict=True):
                own.copy_(p.detach())  # the rate was zero so far
            self.loss.zero_()
            start, done, since = time.perf_counter(), 0.0, 0
            checked, step = 0, 0
            while done < 1.0:
                spent = (time.perf_counter() - start) / (60 * settings.minutes)
                done = max(step / steps, spent)
                if done >= 1.0:
                    break
                self._set_rate(0.5 * (1 + math.cos(math.pi * done)) * min(1.0, (step + 1) / 100))
                self._input.copy_(self._views.draw())
                if replay is None:
                    self._optimizer.zero_grad()
                    work()
                else:
                    replay()
                step, since = step + 1, since + 1
                if done * CHECKS >= checked + 1:
                    checked = int(done * CHECKS)
                    mean = float(self.loss) / since
                    self.loss.zero_()
                    since = 0
                    check(step, done, mean)
            check(step, 1.0, float(self.loss) / max(1, since))
        return step

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """The work of one step as one CUDA graph."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._optimizer.zero_grad(set_to_none=True)
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def _set_rate(self, share: float) -> None:
        for group, base in zip(self._optimizer.param_groups, self._base, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(base * share)
            else:
                group["lr"] = base * share

    def results(self, *, averaged: bool = False) -> dict[str, Trained]:
        """Integers, scales and ranges of all layers as they are now, or as they were on average."""
        kept = [p.detach().clone() for p in self._parameters]
        with torch.no_grad():
            if averaged:
                for p, own in zip(self._parameters, self.average, strict=True):
                    p.copy_(own)
            found = {name: layer.eval().result() for name, layer in self.layers.items()}
            for p, own in zip(self._parameters, kept, strict=True):
                p.copy_(own)
        for layer in self.layers.values():
            layer.train()
        return found


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
        self._least, self._best = math.inf, dict[str, Trained]()

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
            self._least = self._judge()
            say("layers", held_out=self._least)
            if start == "best" and effort.reconstruct is not None and effort.tune is not None:
                found, inputs = reconstruct(
                    live, chain, found, inputs, few, self._few_held_out, effort.reconstruct, seed=seed
                )
                self._least = self._judge()
                say("blocks", held_out=self._least)
                pool = ImagePool(self._images, seed)
                tuned = tune(live, found, inputs, pool, self._blocks, effort.tune, seed=seed)
                _take(live, tuned)
                after = self._judge()
                if after < self._least:
                    self._least = after
                    found = {name: Rounding(own.weight, "tuned", own.latent, {}) for name, own in tuned.items()}
                    inputs = {name: own.input for name, own in tuned.items() if own.input is not None}
        self._best = {name: Trained(own.weight, inputs.get(name), torch.empty(0)) for name, own in found.items()}
        say(start, held_out=self._least, **self._measured(self._rounded(self._best)))
        return found, inputs

    def train(
        self,
        found: Mapping[str, Rounding],
        inputs: Mapping[str, ActivationQuantizer],
        settings: Longer,
        seed: int,
    ) -> None:
        """Train all layers from a rounding, and measure the best state on held-out images and the last."""
        with live_model(self._model, self._layers) as live:
            views = Views(self._images, seed, settings)
            trainer = Trainer(live, found, inputs, views, self._blocks, settings, seed)
            steps = trainer.run(partial(self._check, live, trainer))
            last, average = trainer.results(), trainer.results(averaged=True)
        for stage, state in (("longer", self._best), ("last", last), ("average", average)):
            self._say(stage, steps=steps, held_out=self._least, **self._measured(self._rounded(state)))

    def _check(self, live: LiveModel, trainer: Trainer, step: int, done: float, loss: float) -> None:
        shown = {}
        for name in trainer.layers:
            live.replace(name, None)
        for name in ("now", "average") if done >= AVERAGED_FROM else ("now",):
            state = trainer.results(averaged=name == "average")
            _take(live, state)
            shown[name] = self._judge()
            if shown[name] < self._least:
                self._least, self._best = shown[name], state
                if self._save is not None:
                    save_weights({layer: own.weight for layer, own in state.items()}, self._save)
        for name, layer in trainer.layers.items():
            live.set_weight(name, None)
            live.set_input(name, None)
            live.replace(name, layer)
        self._say("step", step=step, done=round(done, 3), loss=round(loss, 4), **shown)

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
    drop: Annotated[float, typer.Option(help="Share of the input elements left in float.")] = 0.0,
    graph: Annotated[bool, typer.Option(help="Run a step as one CUDA graph.")] = True,
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

    settings = Longer(steps, minutes, batch_size, rate, smallest_side, mixed, drop, graph)
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
                if deadline is not None:
                    left = (deadline - (time.perf_counter() - begun)) / 60
                    settings = replace(settings, minutes=max(0.1, min(minutes, left)))
                longest.train(found, inputs, settings, seed)


if __name__ == "__main__":
    run_tool(main)
