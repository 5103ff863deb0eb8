"""A tiny model, grids and quantizers for the tests of rounding."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from lampq_onnx.frontend.rounding.ladder import Rounding
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.frontend.simulation.live import LiveModel, live_model
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.quantization import ActivationQuantizer, QuantizedWeight, WeightGrid
from tests.frontend import by_hand as made
from tests.frontend.tiny_models import ArrayImages, images, layers_of, pixels, tiny_vit, untouched

PLAIN = tiny_vit()
"""Never changed."""

FIT, HELD_OUT = images(40, seed=1), images(24, seed=2)


def model_and_chain() -> tuple[torch.nn.Module, BlockChain]:
    """A copy of the model."""
    model = copy.deepcopy(PLAIN)
    return model, BlockChain(model, layers_of(model), pixels(1))


def grids(bits: int) -> dict[str, WeightGrid]:
    """One width in the budget, 8 bits outside."""
    rounder = WeightRounder(layers_of(PLAIN))
    return {layer.name: rounder.grid(layer.name, 8 if layer.fixed else bits) for layer in layers_of(PLAIN)}


def quantizers(bits: int = 8) -> dict[str, ActivationQuantizer]:
    """Of the min-max ranges in the float model."""
    found: dict[str, ActivationQuantizer] = {}
    model = copy.deepcopy(PLAIN)
    for layer in layers_of(model):
        layer.module.register_forward_pre_hook(
            lambda _, args, name=layer.name: found.update(
                {name: ActivationQuantizer.from_range(float(args[0].min()), float(args[0].max()), bits)}
            )
        )
    model(torch.from_numpy(FIT.images))
    return found


def nearest(bits: int) -> dict[str, Rounding]:
    """Every layer rounded to nearest."""
    found = {}
    for name, grid in grids(bits).items():
        matrix = PLAIN.get_submodule(name).weight.flatten(1)
        found[name] = Rounding(grid.quantize(matrix.numpy()), "nearest", matrix.clone(), {})
    return found


def weights(roundings: Mapping[str, Rounding]) -> dict[str, QuantizedWeight]:
    return {name: rounding.weight for name, rounding in roundings.items()}


def by_hand(changes: Mapping[str, QuantizedWeight], inputs: Mapping[str, ActivationQuantizer]) -> torch.nn.Module:
    """A copy of the float model with other weights and biases, and with quantized inputs."""
    return made.by_hand(PLAIN, changes, inputs)


def kl(changed: torch.nn.Module, data: ArrayImages) -> torch.Tensor:
    """Of each image, float64 (n,)."""
    p, q = (model(torch.from_numpy(data.images)).double().softmax(1) for model in (PLAIN, changed))
    return (p * (p / q).log()).sum(1)


@contextmanager
def live_copy() -> Iterator[tuple[LiveModel, BlockChain]]:
    """A live model that has to be the float one again afterwards."""
    model, chain = model_and_chain()
    with live_model(model, layers_of(model)) as live:
        yield live, chain
    assert untouched(model)
    for found, expected in zip(model.parameters(), PLAIN.parameters(), strict=True):
        assert torch.equal(found, expected)


def use(live: LiveModel, roundings: Mapping[str, Rounding], inputs: Mapping[str, ActivationQuantizer]) -> None:
    """Quantize the live model."""
    for name, rounding in roundings.items():
        live.set_weight(name, rounding.weight)
        live.set_input(name, inputs.get(name))


def same(first: Mapping[str, Rounding], second: Mapping[str, Rounding]) -> bool:
    """Whether two results are equal to the last number."""
    return all(
        second[name].method == one.method
        and (second[name].weight.codes == one.weight.codes).all()
        and (second[name].weight.scale == one.weight.scale).all()
        and ((second[name].weight.bias is None) == (one.weight.bias is None))
        and (one.weight.bias is None or (second[name].weight.bias == one.weight.bias).all())
        for name, one in first.items()
    )
