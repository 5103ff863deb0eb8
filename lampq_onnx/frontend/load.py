"""Measures what one model costs: operations, weights and the time of a pass."""

from __future__ import annotations

import time

import torch

from lampq_onnx.frontend.models.trial import noise
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.products import linear
from lampq_onnx.running.load import Load

TRIAL = 4
"""Images of the pass that is timed."""

MATRIX = (768, 1024, 768)
"""Sizes of a matrix product that shows the speed of a processor."""

BESIDE_PRODUCTS = 1.6
"""Time of a pass over that of the products of its layers."""


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
    product = solve = activations = columns = 0.0
    layers = frontend.exported.layers
    for layer in layers:
        outputs, inputs = layer.module.weight.flatten(1).shape
        tokens = elements[layer.name] / inputs
        product += 2 * tokens * layer.parameters
        activations += 4 * tokens * (outputs + inputs)
        if not layer.fixed:
            solve += 2 * inputs**3 + layer.parameters * inputs
            columns += inputs
    gpu = images.is_cuda
    return Load(
        image=best / TRIAL,
        host=BESIDE_PRODUCTS * product * _seconds_per_operation() if gpu else best / TRIAL,
        product=product,
        solve=solve,
        columns=columns,
        weights=float(sum(layer.parameters for layer in layers)),
        parameters=4.0 * sum(value.numel() for value in module.parameters()),
        activations=activations,
        blocks=len(frontend.chain),
        layers=sum(not layer.fixed for layer in layers),
        gpu=gpu,
    )


def _seconds_per_operation() -> float:
    """Time a matrix product on the processor."""
    rows, inner, columns = MATRIX
    left, right = torch.ones(rows, inner), torch.ones(columns, inner)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        linear(left, right)
        best = min(best, time.perf_counter() - start)
    return best / (2 * rows * inner * columns)
