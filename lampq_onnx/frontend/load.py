"""What one model costs: operations, weights and the time of a pass, from which the time of a run is estimated."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from lampq_onnx.frontend.models.trial import noise
from lampq_onnx.frontend.session import Frontend

TRIAL = 4
"""Images of the pass that is timed."""


@dataclass(frozen=True)
class Load:
    """What one model costs.

    Attributes:
        image: seconds of one image in a pass forward.
        product: floating point operations of the layers for one image.
        solve: operations to round all layers by GPTQ at one width, factorizations included.
        weights: number of weights of the layers.
        parameters: bytes of the float model.
        activations: bytes of the inputs and outputs of all layers, for one image.
        blocks: number of blocks.
        layers: number of layers in the budget.
    """

    image: float
    product: float
    solve: float
    weights: float
    parameters: float
    activations: float
    blocks: int
    layers: int

    def seconds(self, operations: float) -> float:
        """Return the time of matrix products with this many operations, at the speed of a pass."""
        return operations * self.image / self.product


@torch.no_grad()
def measure_load(frontend: Frontend) -> Load:
    """Count the operations of a model, and time a pass of two random images."""
    module, elements = frontend.loaded.module, frontend.input_elements()
    images = noise(frontend.loaded.preprocessing, module, TRIAL)
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        float(module(images).flatten()[0])  # a device computes while Python goes on, and reading waits for it
        best = min(best, time.perf_counter() - start)
    product = solve = activations = 0.0
    layers = frontend.exported.layers
    for layer in layers:
        outputs, inputs = layer.module.weight.flatten(1).shape
        tokens = elements[layer.name] / inputs
        product += 2 * tokens * layer.parameters
        activations += 4 * tokens * (outputs + inputs)
        if not layer.fixed:
            solve += 2 * inputs**3 + layer.parameters * inputs
    return Load(
        image=best / TRIAL,
        product=product,
        solve=solve,
        weights=float(sum(layer.parameters for layer in layers)),
        parameters=4.0 * sum(value.numel() for value in module.parameters()),
        activations=activations,
        blocks=len(frontend.chain),
        layers=sum(not layer.fixed for layer in layers),
    )
