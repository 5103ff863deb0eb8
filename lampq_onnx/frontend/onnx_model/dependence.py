"""Runs a graph to find which values depend on the images, and which only on the number of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.onnx_model.graph import ShapeValues, Step
from lampq_onnx.graph.roles import SHAPE_OPERATORS

BATCHES = (2, 3)
"""Batch sizes that a graph is run with, to find values that follow from the number of images."""


@dataclass(frozen=True)
class Dependence:
    """Values of a graph at the batch sizes of `BATCHES`.

    Attributes:
        dependent: names of values that depend on the content of the images.
        known: all other results of steps, for each batch size.
        sizes: shapes of the dependent values, for each batch size.
        real: names of dependent values with a floating-point type.
    """

    dependent: frozenset[str]
    known: tuple[Mapping[str, torch.Tensor], ...]
    sizes: tuple[Mapping[str, tuple[int, ...]], ...]
    real: frozenset[str]


@torch.no_grad()
def dependence_of(
    steps: Sequence[Step],
    constants: Mapping[str, torch.Tensor],
    modules: Mapping[str, torch.nn.Module],
    image: str,
    shape: tuple[int, int, int],
) -> Dependence:
    """Run the steps on random images of shape (channels, height, width).

    Raises:
        LampqError: a step fails; the message names its node.
    """
    dependent = {image}
    for step in steps:
        if step.operator not in SHAPE_OPERATORS and any(name in dependent for name in step.inputs):
            dependent.update(step.outputs)
    readers: dict[str, int] = {}
    for position, step in enumerate(steps):
        readers |= dict.fromkeys(step.inputs, position)
    known: list[dict[str, torch.Tensor]] = []
    sizes: list[dict[str, tuple[int, ...]]] = []
    real: set[str] = set()
    for batch in BATCHES:
        pixels = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
        values: dict[str, Any] = {**constants, "": None, image: pixels}
        sizes.append({image: tuple(pixels.shape)})
        known.append({})
        for position, step in enumerate(steps):
            results = run(step, values, modules)
            for name, result in zip(step.outputs, results, strict=False):
                values[name] = result
                if name in dependent:
                    sizes[-1][name] = tuple(result.shape)
                    if result.is_floating_point():
                        real.add(name)
                else:
                    known[-1][name] = result
            for name in step.inputs:
                if name in dependent and readers[name] == position:
                    values.pop(name, None)
    return Dependence(frozenset(dependent), tuple(known), tuple(sizes), frozenset(real))


def run(step: Step, values: Mapping[str, Any], modules: Mapping[str, torch.nn.Module]) -> tuple[Any, ...]:
    """Compute the results of a step.

    Raises:
        LampqError: the step fails; the message names its node.
    """
    call = modules[step.call] if isinstance(step.call, str) else step.call
    try:
        result = call(*[values[name] for name in step.inputs])
    except LampqError as error:
        raise LampqError(f"{error.message} (node {step.node})", hint=error.hint) from error
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LampqError(
            f"node {step.node} ({step.operator}) cannot be computed in PyTorch: {reason[:300]}",
            hint="check that onnxruntime runs the file on images of this size, and that its input has the shape that "
            "the file states",
        ) from error
    return tuple(result) if isinstance(result, tuple | list) else (result,)


@dataclass(frozen=True)
class Folded:
    """The steps that remain when values known in advance are left out.

    Attributes:
        steps: remaining steps.
        constants: values that depend on nothing.
        shapes: integers that depend on the number of images.
        expanded: results of steps whose shape depends on the number of images, such as class tokens.
    """

    steps: tuple[Step, ...]
    constants: Mapping[str, torch.Tensor]
    shapes: Mapping[str, ShapeValues]
    expanded: frozenset[str]


def fold(
    steps: Sequence[Step], constants: Mapping[str, torch.Tensor], seen: Dependence, outputs: Sequence[str]
) -> Folded:
    """Keep the steps that ``outputs`` need and that depend on the images or on their number."""
    fixed = dict(constants)
    shapes: dict[str, ShapeValues] = {}
    for name, low in seen.known[0].items():
        high = seen.known[1][name]
        if low.shape == high.shape and torch.equal(low, high):
            fixed[name] = low.clone()
        elif low.shape == high.shape and low.dtype == torch.int64:
            slope = (high - low) // (BATCHES[1] - BATCHES[0])
            shapes[name] = ShapeValues(low - BATCHES[0] * slope, slope)
    needed = set(outputs)
    kept: list[Step] = []
    for step in reversed(steps):
        if any(name in needed and name not in fixed and name not in shapes for name in step.outputs):
            kept.append(step)
            needed.update(step.inputs)
    kept.reverse()
    expanded: set[str] = set()
    for step in kept:
        if all(n not in seen.dependent for n in (*step.inputs, *step.outputs)):
            expanded.update(step.outputs)
    return Folded(
        tuple(kept),
        {name: value for name, value in fixed.items() if name in needed},
        {name: value for name, value in shapes.items() if name in needed},
        frozenset(expanded),
    )
