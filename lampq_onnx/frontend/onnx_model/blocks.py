"""Finds the transformer blocks in a list of steps: they begin and end where a single tensor connects the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lampq_onnx.frontend.onnx_model.graph import Step

INNER_TYPES = ("proj", "fc1", "fc2")
"""Types of layers that belong to the block of the qkv layer before them."""


@dataclass(frozen=True)
class Span:
    """A range of steps between two values.

    Attributes:
        start: position of the first step.
        stop: position after the last step.
        source: name of the value that the range reads.
        result: name of the value that the range computes.
    """

    start: int
    stop: int
    source: str
    result: str


def find_blocks(
    steps: Sequence[Step], image: str, free: frozenset[str], types: Mapping[int, str], outputs: Sequence[str] = ()
) -> tuple[Span, ...]:
    """Find the spans of the blocks.

    A block begins with the layers that feed an attention, and ends with the last layer before the next such layers.

    Args:
        steps: all steps in order.
        image: name of the graph's input.
        free: values that may pass a cut because they do not depend on the images.
        types: position of a layer's step -> type of the layer.
        outputs: names of the values that the graph returns.
    """
    cuts = _cuts(steps, image, free, outputs)
    parts = [Span(a[0], b[0], a[1], b[1]) for a, b in pairwise(cuts)]
    found: list[Span] = []
    pending: Span | None = None
    reach = 0
    for part in parts:
        inside = {types[i] for i in range(part.start, part.stop) if i in types}
        if "qkv" in inside:
            if pending is not None:
                found.append(_between(pending, parts, reach))
            pending, reach = part, part.stop
        elif pending is not None and inside & set(INNER_TYPES):
            reach = part.stop
    if pending is not None:
        found.append(_between(pending, parts, reach))
    return tuple(found)


def _between(first: Span, parts: Sequence[Span], stop: int) -> Span:
    last = next(part for part in parts if part.stop == stop)
    return Span(first.start, stop, first.source, last.result)


def _cuts(steps: Sequence[Step], image: str, free: frozenset[str], outputs: Sequence[str]) -> list[tuple[int, str]]:
    """(number of steps before, name) at every place where later steps read only one value of the earlier ones."""
    last: dict[str, int] = {}
    for position, step in enumerate(steps):
        last |= dict.fromkeys(step.inputs, position)
    order = {name: position for position, step in enumerate(steps) for name in step.outputs}
    # Outputs stay alive until the end, so a cut may not have an output before it, except the last one.
    earlier = sorted(outputs, key=lambda name: order.get(name, -1))[:-1]
    last |= dict.fromkeys(earlier, len(steps))
    made = {name for step in steps for name in step.outputs} | {image}
    live = {image}
    cuts = [(0, image)]
    for position, step in enumerate(steps):
        live = {name for name in live if last.get(name, -1) > position}
        live |= {n for n in step.outputs if n in made and n not in free and last.get(n, -1) > position}
        if len(live) == 1:
            name = next(iter(live))
            if name in step.outputs:
                cuts.append((position + 1, name))
    return cuts
