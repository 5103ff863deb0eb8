"""Trains the whole quantized model for a short time towards the outputs of the float model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from lampq_onnx.frontend.likelihoods import likelihood_of
from lampq_onnx.frontend.rounding.ladder import Rounding
from lampq_onnx.frontend.rounding.trainable import TrainableLayer, Trained
from lampq_onnx.frontend.rounding.views import ImagePool
from lampq_onnx.frontend.simulation.live import LiveModel
from lampq_onnx.quantization import ActivationQuantizer


@dataclass(frozen=True)
class LearningRates:
    """Learning rates of Adam.

    Weights are in units of their step and scales are logarithms, so that one value fits every layer. The values were
    found on DeiT-Ti at W4A8, W3A8 and W4A4 (400 steps of 16 views): with ten times the rates for weights or biases the
    loss ends higher than it began.

    Attributes:
        weight: rate of the weights.
        scale: rate of the weight scales.
        bias: rate of the biases.
        input_scale: rate of the input scales.
        input_zero: rate of the input zero points.
    """

    weight: float = 1.5e-3
    scale: float = 3e-4
    bias: float = 1e-4
    input_scale: float = 1e-3
    input_zero: float = 1e-1


@dataclass(frozen=True)
class TuneSettings:
    """Settings for tuning the whole model.

    Attributes:
        steps: training steps; on 128 images 1200 steps were worse than 400.
        batch_size: views per step.
        warmup: steps in which the learning rates rise; afterwards they fall to zero along a cosine.
        drop: fraction of input elements left in float (QDrop).
        feature_weight: weight of the mean relative squared error of the blocks' outputs, added to the KL.
        rates: learning rates.
    """

    steps: int = 600
    batch_size: int = 16
    warmup: int = 20
    drop: float = 0.0
    feature_weight: float = 16.0
    rates: LearningRates = LearningRates()


def tune(
    live: LiveModel,
    roundings: Mapping[str, Rounding],
    inputs: Mapping[str, ActivationQuantizer],
    pool: ImagePool,
    blocks: Sequence[torch.nn.Module],
    settings: TuneSettings,
    *,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Trained]:
    """Train the layers of ``roundings`` together; ``live`` is restored afterwards.

    Args:
        live: the quantized model.
        roundings: layer -> rounding to start from.
        inputs: layer -> quantizer of its input.
        pool: images; the loss is KL(float || quantized) on random views of them.
        blocks: modules whose outputs are compared in addition to the logits.
        settings: how long, and at what rates.
        seed: seed of the dropped elements.
        progress: called with the number of steps done.
    """
    generator = torch.Generator(device=live.device).manual_seed(seed)
    layers = {
        name: TrainableLayer(
            live.layers[name].module, rounding, live.bias(name), inputs.get(name), drop=settings.drop,
            generator=generator,
        )
        for name, rounding in roundings.items()
    }  # fmt: skip
    teacher = float_copy(live)
    likelihood = likelihood_of(live.model)
    optimizer = optimizer_of(layers.values(), settings.rates)
    base = [group["lr"] for group in optimizer.param_groups]
    twins = [teacher.get_submodule(path_in(live, block)) for block in blocks]
    with trained(live, layers), outputs_of(blocks) as seen, outputs_of(twins) as true:
        for step in range(settings.steps):
            share = 0.5 * (1 + math.cos(math.pi * step / settings.steps)) * min(1.0, (step + 1) / settings.warmup)
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * share
            views = pool.views(settings.batch_size)
            with torch.no_grad():
                wanted = teacher(views)
            with torch.enable_grad():
                loss = likelihood.training_loss(live.model(views), wanted)
                if settings.feature_weight:
                    loss = loss + settings.feature_weight * relative_error(seen, true)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if progress is not None:
                progress(step + 1)
    return {name: layer.eval().result() for name, layer in layers.items()}


@contextmanager
def trained(live: LiveModel, layers: Mapping[str, TrainableLayer]) -> Iterator[None]:
    """Replace layers by trainable ones inside the block, in training mode; restore them on exit."""
    try:
        for name, layer in layers.items():
            live.replace(name, layer.train())
        yield
    finally:
        for name in layers:
            live.replace(name, None)


def float_copy(live: LiveModel) -> torch.nn.Module:
    """A separate copy of the float model."""
    with live.in_float():
        forwards = {name: layer.module.__dict__.pop("forward", None) for name, layer in live.layers.items()}
        try:
            return copy.deepcopy(live.model).eval().requires_grad_(False)
        finally:
            for name, layer in live.layers.items():
                if forwards[name] is not None:
                    layer.module.__dict__["forward"] = forwards[name]


@contextmanager
def outputs_of(modules: Sequence[torch.nn.Module]) -> Iterator[dict[int, torch.Tensor]]:
    """The latest outputs of the modules, by position in ``modules``."""
    kept: dict[int, torch.Tensor] = {}

    def keep(place: int, output: torch.Tensor) -> None:
        kept[place] = output

    handles = [
        module.register_forward_hook(lambda _, __, output, place=place: keep(place, output))
        for place, module in enumerate(modules)
    ]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def relative_error(seen: Mapping[int, torch.Tensor], true: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Squared error divided by squared norm, averaged over the outputs."""
    errors = [(seen[place] - true[place]).square().mean() / true[place].square().mean() for place in true]
    return torch.stack(errors).mean()


def path_in(live: LiveModel, module: torch.nn.Module) -> str:
    """Where a module stands in the model."""
    found: str = next(name for name, other in live.model.named_modules() if other is module)
    return found


def optimizer_of(layers: Iterable[TrainableLayer], rates: LearningRates) -> torch.optim.Adam:
    """Adam for the numbers of the layers, each kind at its rate."""
    chosen = {
        "real": rates.weight, "log_scale": rates.scale, "bias": rates.bias,
        "log_input_scale": rates.input_scale, "zero": rates.input_zero,
    }  # fmt: skip
    groups: dict[str, list[torch.nn.Parameter]] = {name: [] for name in chosen}
    for layer in layers:
        for name, parameter in layer.named_parameters():
            groups[name].append(parameter)
    return torch.optim.Adam(
        [{"params": parameters, "lr": chosen[name]} for name, parameters in groups.items() if parameters],
        betas=(0.9, 0.99),
        fused=all(parameter.device.type == "cpu" for parameters in groups.values() for parameter in parameters),
    )
