"""Trains the whole rounded model for long: thousands of steps on views of few images, for those with a GPU.

As in tuning, all weights, scales, biases and input ranges learn together from the float model's outputs and those of
its blocks. What keeps that useful for long are small crops and mixtures of views. Only the end counts: before the rates
have fallen, the integers jump and the loss is higher than at the start. On a GPU one step is one CUDA graph: the model
is small, and launching its operators takes longer than computing them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
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
    """

    steps: int = 5_500
    batch_size: int = 32
    rate: float = 0.5
    warmup: int = 100
    smallest_side: float = 0.4
    mixed: float = 0.5


def train_longer(
    live: LiveModel,
    roundings: Mapping[str, Rounding],
    inputs: Mapping[str, ActivationQuantizer],
    images: Sequence[torch.Tensor],
    blocks: Sequence[torch.nn.Module],
    settings: LongerSettings,
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
    done_at: Callable[[int], float] | None = None,
) -> dict[str, Trained] | None:
    """Train the layers of ``roundings`` together; ``live`` is restored afterwards.

    Args:
        live: the quantized model.
        roundings: layer -> rounding to start from.
        inputs: layer -> quantizer of its input.
        images: batches of normalized images.
        blocks: modules whose outputs are compared in addition to the logits.
        settings: how long, and at what rates.
        seed: of the views.
        progress: called with the number of steps done.
        done_at: number of steps -> done share of the training; None: that of the steps.

    Returns:
        The trained layers; None if the training diverged: a number is no longer finite.
    """
    layers = {
        name: TrainableLayer(live.layers[name].module, rounding, live.bias(name), inputs.get(name))
        for name, rounding in roundings.items()
    }
    pool = ImagePool(images, seed, smallest_side=settings.smallest_side, mixed=settings.mixed)
    teacher = float_copy(live)
    twins = [teacher.get_submodule(path_in(live, block)) for block in blocks]
    with trained(live, layers), outputs_of(blocks) as seen, outputs_of(twins) as true:
        step = _Step(live, teacher, layers, (seen, true), pool, settings)
        steps, done = 0, 0.0
        while done < 1:
            step.take(0.5 * (1 + math.cos(math.pi * done)) * min(1.0, (steps + 1) / settings.warmup))
            steps += 1
            done = steps / settings.steps if done_at is None else done_at(steps)
            if progress is not None:
                progress(steps)
    if not all(torch.isfinite(values).all() for layer in layers.values() for values in layer.parameters()):
        _log.warning("the long training diverged and is undone")
        return None
    return {name: layer.eval().result() for name, layer in layers.items()}


class _Step:
    """One step of the training, on a GPU as a CUDA graph."""

    def __init__(
        self,
        live: LiveModel,
        teacher: torch.nn.Module,
        layers: Mapping[str, TrainableLayer],
        outputs: tuple[Mapping[int, torch.Tensor], Mapping[int, torch.Tensor]],
        pool: ImagePool,
        settings: LongerSettings,
    ) -> None:
        tuning = TuneSettings()
        self._live, self._teacher, self._outputs, self._pool = live, teacher, outputs, pool
        self._likelihood, self._feature_weight = likelihood_of(live.model), tuning.feature_weight
        self._count = settings.batch_size
        self._optimizer = optimizer_of(layers.values(), tuning.rates)
        self._on_gpu = live.device.type == "cuda"
        self._base = [settings.rate * group["lr"] for group in self._optimizer.param_groups]
        for group in self._optimizer.param_groups:
            group["capturable"] = self._on_gpu
            group["lr"] = torch.tensor(0.0, device=live.device) if self._on_gpu else 0.0
        self._views = pool.views(self._count).clone()
        self._run = self._captured() if self._on_gpu else self._alone

    def take(self, share: float) -> None:
        """Train on new views.

        Args:
            share: of the learning rates.
        """
        for group, base in zip(self._optimizer.param_groups, self._base, strict=True):
            if self._on_gpu:
                group["lr"].fill_(base * share)
            else:
                group["lr"] = base * share
        self._views.copy_(self._pool.views(self._count))
        self._run()

    def _alone(self) -> None:
        self._optimizer.zero_grad()
        self._compute()

    def _compute(self) -> None:
        with torch.no_grad():
            wanted = self._teacher(self._views)
        with torch.enable_grad():
            loss = self._likelihood.training_loss(self._live.model(self._views), wanted)
            loss = loss + self._feature_weight * relative_error(*self._outputs)
            loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def _captured(self) -> Callable[[], None]:
        """The step as a graph; where that cannot be made, one operation at a time."""
        # Streams and graphs belong to the current GPU, which need not be that of the model.
        with torch.cuda.device(self._live.device):
            return self._captured_here()

    def _captured_here(self) -> Callable[[], None]:
        before = torch.get_float32_matmul_precision()
        # Products in TensorFloat-32 err by far less than a step of the quantized numbers.
        torch.set_float32_matmul_precision("high")
        try:
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(TRIED):
                    self._alone()  # the rate is zero
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            self._optimizer.zero_grad()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._compute()
        except RuntimeError as error:
            _log.warning("each step of the long training runs one operation at a time: %s", error)
            return self._alone
        finally:
            torch.set_float32_matmul_precision(before)
        return graph.replay
