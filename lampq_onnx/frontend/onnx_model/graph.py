"""`Graph`: the steps of an ONNX graph as a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class ShapeValues:
    """Integers that depend only on the batch size: ``start + slope * batch``.

    Attributes:
        start: int64 on the CPU.
        slope: int64 on the CPU, in the shape of ``start``.
    """

    start: torch.Tensor
    slope: torch.Tensor

    def at(self, batch: int) -> torch.Tensor:
        """The integers for a batch size."""
        return self.start + self.slope * batch


@dataclass(frozen=True)
class Step:
    """One call of a function or module.

    Attributes:
        node: name of the ONNX node, for messages.
        operator: type of the node.
        inputs: names of the input values; empty for an absent optional input.
        outputs: names of the output values.
        call: a function of the inputs, or the name of a submodule.
    """

    node: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    call: Callable[..., Any] | str


@dataclass(frozen=True)
class BatchAxis:
    """How to read the batch size from the last argument of a graph.

    Attributes:
        axis: axis of the argument to look at.
        factor: size along the axis divided by the batch size.
    """

    axis: int = 0
    factor: int = 1

    def of(self, value: torch.Tensor) -> int:
        """The batch size that a tensor shows."""
        return value.shape[self.axis] // self.factor


class Graph(torch.nn.Module):
    """Runs steps in order and releases values that no later step reads.

    Args:
        steps: in an order in which they can run.
        inputs: names of the positional arguments.
        outputs: names of the values to return; one is returned as a tensor, several as a tuple.
        constants: float and index tensors by value name; they become buffers.
        shapes: integers that depend on the batch size, by value name.
        batch: how to read the batch size from the last argument.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        inputs: Sequence[str],
        outputs: Sequence[str],
        constants: Mapping[str, torch.Tensor],
        shapes: Mapping[str, ShapeValues],
        batch: BatchAxis,
    ) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.batch = batch
        read = {name for step in steps for name in step.inputs} | set(outputs)
        self._shapes = {name: shapes[name] for name in read if name in shapes}
        self._names: dict[str, str] = {}
        self._small: dict[str, torch.Tensor] = {}
        for name in sorted(read & set(constants)):
            value = constants[name]
            if value.is_floating_point() or value.numel() > SMALL:
                self._names[name] = f"constant{len(self._names)}"
                self.register_buffer(self._names[name], value)
            else:
                self._small[name] = value
        self._last = _last_readers(self.steps, self.outputs)

    def forward(self, *arguments: torch.Tensor) -> Any:
        """Compute the outputs for the arguments, which come in the order of `inputs`."""
        batch = self.batch.of(arguments[-1])
        values: dict[str, Any] = dict(zip(self.inputs, arguments, strict=True))
        values |= {name: self._buffers[own] for name, own in self._names.items()}
        values |= self._small
        values |= {name: shape.at(batch) for name, shape in self._shapes.items()}
        values[""] = None
        for step, done in zip(self.steps, self._last, strict=True):
            call = self._modules[step.call] if isinstance(step.call, str) else step.call
            assert call is not None
            result = call(*[values[name] for name in step.inputs])
            if isinstance(result, tuple | list):
                values.update(zip(step.outputs, result, strict=False))
            else:
                values[step.outputs[0]] = result
            for name in done:
                del values[name]
        found = tuple(values[name] for name in self.outputs)
        return found[0] if len(found) == 1 else found


SMALL = 64
"""Integer constants with at most this many elements stay on the CPU: they are shapes, axes and single indices."""


def _last_readers(steps: Sequence[Step], outputs: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """For every step, the values that no later step reads."""
    made = {name for step in steps for name in step.outputs}
    later = set(outputs)
    found: list[tuple[str, ...]] = []
    for step in reversed(steps):
        mentioned = dict.fromkeys((*step.inputs, *step.outputs))
        found.append(tuple(name for name in mentioned if name in made and name not in later))
        later |= set(step.inputs)
    return tuple(reversed(found))
