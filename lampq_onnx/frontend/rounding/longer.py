"""Trains the whole rounded model for long: thousands of steps on views of few images, for those with a GPU.

As in tuning, all weights, scales, biases and input ranges learn together from the float model's outputs and those of
its blocks. What keeps that useful for long are small rates, small crops and mixtures of views, and that the state which
is kept is chosen by the KL on held-out images. On a GPU one step is one CUDA graph: the model is small, and launching
its operators takes longer than computing them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lampq_onnx.frontend.likelihoods import likelihood_of
from lampq_onnx.frontend.rounding.ladder import Rounding
from lampq_onnx.frontend.rounding.trainable import TrainableLayer, Trained
from lampq_onnx.frontend.rounding.tune import (
    TuneSettings,
    float_copy,
    optimizer_of,
    outputs_of,
    path_in,
    relative_error,
    trained,
)
from lampq_onnx.frontend.rounding.views import ImagePool
from lampq_onnx.frontend.simulation.live import LiveModel
from lampq_onnx.quantization import ActivationQuantizer

AVERAGED = 0.999
"""Decay of the running average of all trained numbers, for each step."""

AVERAGED_FROM = 0.3
"""Share of the steps after which the running average is a state as well."""

TRIED = 3
"""Steps at a rate of zero before a step becomes a CUDA graph."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LongerSettings:
    """Settings of long training.

    Attributes:
        steps: training steps.
        batch_size: views per step.
        rate: learning rates, in those of tuning; they fall to zero along a cosine.
        warmup: steps in which they rise.
        smallest_side: smallest side of a crop, as a fraction of the image's side.
        mixed: share of the views that are mixed with another one.
        checks: how often the states are compared on held-out images.
    """

    steps: int = 15_000
    batch_size: int = 32
    rate: float = 0.5
    warmup: int = 100
    smallest_side: float = 0.4
    mixed: float = 0.5
    checks: int = 20


class Longer:
    """One training.

    Args:
        live: the quantized model.
        roundings: layer -> rounding to start from.
        inputs: layer -> quantizer of its input.
        pool: images.
        blocks: modules whose outputs are compared in addition to the logits.
        settings: how long, and at what rates.

    Attributes:
        layers: the trained layers.
    """

    def __init__(
        self,
        live: LiveModel,
        roundings: Mapping[str, Rounding],
        inputs: Mapping[str, ActivationQuantizer],
        pool: ImagePool,
        blocks: list[torch.nn.Module],
        settings: LongerSettings,
    ) -> None:
        self.layers = {
            name: TrainableLayer(live.layers[name].module, rounding, live.bias(name), inputs.get(name))
            for name, rounding in roundings.items()
        }
        self._live, self._pool, self._blocks, self._settings = live, pool, blocks, settings
        self._teacher, self._likelihood = float_copy(live), likelihood_of(live.model)
        self._twins = [self._teacher.get_submodule(path_in(live, block)) for block in blocks]
        tuning = TuneSettings()
        self._feature_weight = tuning.feature_weight
        self._optimizer = optimizer_of(self.layers.values(), tuning.rates)
        self._on_gpu = live.device.type == "cuda"
        self._base = [settings.rate * group["lr"] for group in self._optimizer.param_groups]
        for group in self._optimizer.param_groups:
            group["capturable"] = self._on_gpu
            group["lr"] = torch.tensor(0.0, device=live.device) if self._on_gpu else 0.0
        self._numbers: list[torch.Tensor] = [p for layer in self.layers.values() for p in layer.parameters()]
        self._average = [p.detach().clone() for p in self._numbers]
        self._views = pool.views(settings.batch_size).clone()
        self._loss = torch.zeros((), device=live.device)

    def run(
        self,
        check: Callable[[int, float], None],
        *,
        done_at: Callable[[int], float] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Train; return the number of steps.

        Args:
            check: called with the number of steps and their mean loss, as often as the settings say.
            done_at: number of steps -> done share of the training; None: that of all steps.
            progress: called with the number of steps.
        """
        settings, step, checked, since, done = self._settings, 0, 0, 0, 0.0
        with trained(self._live, self.layers), outputs_of(self._blocks) as seen, outputs_of(self._twins) as true:
            take = self._stepper(seen, true)
            while done < 1:
                self._set_rate(0.5 * (1 + math.cos(math.pi * done)) * min(1.0, (step + 1) / settings.warmup))
                self._views.copy_(self._pool.views(settings.batch_size))
                take()
                step, since = step + 1, since + 1
                done = min(1.0, step / settings.steps if done_at is None else done_at(step))
                if progress is not None:
                    progress(step)
                if done * settings.checks >= checked + 1:
                    checked = int(done * settings.checks)
                    loss, since = float(self._loss) / since, 0
                    self._loss.zero_()
                    check(step, loss)
        return step

    def results(self, *, averaged: bool = False) -> dict[str, Trained]:
        """Integers, scales and ranges of all layers as they are now, or as they were on average."""
        now = [p.detach().clone() for p in self._numbers]
        with torch.no_grad():
            if averaged:
                torch._foreach_copy_(self._numbers, self._average)
            found = {name: layer.eval().result() for name, layer in self.layers.items()}
            torch._foreach_copy_(self._numbers, now)
        for layer in self.layers.values():
            layer.train()
        return found

    def _stepper(self, seen: Mapping[int, torch.Tensor], true: Mapping[int, torch.Tensor]) -> Callable[[], None]:
        """What takes one step on the current views."""

        def step() -> None:
            with torch.no_grad():
                wanted = self._teacher(self._views)
            with torch.enable_grad():
                loss = self._likelihood.training_loss(self._live.model(self._views), wanted)
                loss = loss + self._feature_weight * relative_error(seen, true)
                loss.backward()  # type: ignore[no-untyped-call]
            self._loss.add_(loss.detach())
            self._optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(self._average, self._numbers, 1 - AVERAGED)

        def alone() -> None:
            self._optimizer.zero_grad()
            step()

        if not self._on_gpu:
            return alone
        self._set_rate(0.0)
        before = torch.get_float32_matmul_precision()
        # Products in TensorFloat-32 err by far less than a step of the quantized numbers.
        torch.set_float32_matmul_precision("high")
        try:
            graph = self._captured(step, alone)
        except RuntimeError as error:
            _log.warning("each step of the long training runs one operation at a time: %s", error)
            return alone
        finally:
            torch.set_float32_matmul_precision(before)
            self._loss.zero_()
            with torch.no_grad():
                torch._foreach_copy_(self._average, self._numbers)  # the rate was zero so far
        return graph.replay

    def _captured(self, step: Callable[[], None], alone: Callable[[], None]) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(TRIED):
                alone()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self._optimizer.zero_grad()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            step()
        return graph

    def _set_rate(self, share: float) -> None:
        for group, base in zip(self._optimizer.param_groups, self._base, strict=True):
            if self._on_gpu:
                group["lr"].fill_(base * share)
            else:
                group["lr"] = base * share


@contextmanager
def as_rounded(live: LiveModel, state: Mapping[str, Trained], layers: Mapping[str, TrainableLayer]) -> Iterator[None]:
    """Inside the block, the model computes with the numbers of a state; afterwards its layers are trained again."""
    for name, layer in state.items():
        live.replace(name, None)
        live.set_weight(name, layer.weight)
        live.set_input(name, layer.input)
    try:
        yield
    finally:
        for name, trainable in layers.items():
            live.set_weight(name, None)
            live.set_input(name, None)
            live.replace(name, trainable)


def train_longer(
    live: LiveModel,
    roundings: Mapping[str, Rounding],
    inputs: Mapping[str, ActivationQuantizer],
    images: list[torch.Tensor],
    blocks: list[torch.nn.Module],
    settings: LongerSettings,
    judge: Callable[[], float],
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Trained], float]:
    """Train all layers of ``roundings`` for long; return the state of least loss, and that loss.

    Args:
        live: the quantized model; the layers are in float afterwards.
        roundings: layer -> rounding to start from.
        inputs: layer -> quantizer of its input.
        images: batches of normalized images.
        blocks: modules whose outputs are compared in addition to the logits.
        settings: how long, and at what rates.
        judge: loss of the model on held-out images.
        seed: of the views.
        progress: called with the number of steps done.
    """
    pool = ImagePool(images, seed, smallest_side=settings.smallest_side, mixed=settings.mixed)
    longer = Longer(live, roundings, inputs, pool, blocks, settings)
    best: list[tuple[float, dict[str, Trained]]] = []

    def check(step: int, _: float) -> None:
        for averaged in (False, True) if step >= AVERAGED_FROM * settings.steps else (False,):
            state = longer.results(averaged=averaged)
            with as_rounded(live, state, longer.layers):
                loss = judge()
            if not best or loss < best[0][0]:
                best[:] = [(loss, state)]

    longer.run(check, progress=progress)
    loss, state = best[0]
    return state, loss
