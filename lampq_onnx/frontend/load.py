"""Measures what one model costs: operations, weights and the time of a pass."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from lampq_onnx.frontend.models.trial import noise
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.products import linear
from lampq_onnx.running.load import Load

TRIAL = 8
"""Images of the pass that is timed: passes of fewer take longer for each image than those of a run."""

MATRIX = (768, 1024, 768)
"""Sizes of a matrix product that shows the speed of a processor."""

REPEATS = 3
"""Times that a pass is timed; the first ones are slower."""

BESIDE_PRODUCTS = 1.6
"""Time of a pass over that of the products of its layers."""


@torch.no_grad()
def measure_load(frontend: Frontend) -> Load:
    """Count the operations of a model, and time a pass of a few random images."""
    module, elements = frontend.loaded.module, frontend.input_elements()
    images = noise(frontend.loaded.preprocessing, module, TRIAL)
    gpu = images.is_cuda
    # A device computes while Python goes on, and reading a number waits for it.
    best = _least_seconds(lambda: float(module(images).flatten()[0]), time.perf_counter if gpu else _working_seconds)
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
    return _least_seconds(lambda: linear(left, right), _working_seconds) / (2 * rows * inner * columns)


def _least_seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Time some work a few times, and return the least."""
    best = float("inf")
    for _ in range(REPEATS):
        start = clock()
        work()
        best = min(best, clock() - start)
    return best


def _working_seconds() -> float:
    """Seconds that the threads of this process have worked, each of them.

    Other programs that run for a moment do not show in it, as they would in the time that has passed. Where all threads
    work, it is the time that passes on a free machine.
    """
    return time.process_time() / torch.get_num_threads()
