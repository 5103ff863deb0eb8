"""Measures what one model costs: operations, weights and the time of a pass."""

from __future__ import annotations

import time

import torch

from lampq_onnx.frontend.models.trial import noise
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.running.load import Load

TRIAL = 4
"""Images of the pass that is timed."""


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
    return Load(
        image=best / TRIAL,
        product=product,
        solve=solve,
        columns=columns,
        weights=float(sum(layer.parameters for layer in layers)),
        parameters=4.0 * sum(value.numel() for value in module.parameters()),
        activations=activations,
        blocks=len(frontend.chain),
        layers=sum(not layer.fixed for layer in layers),
    )
