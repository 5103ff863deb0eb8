"""Lists of passes, each with the reason for its place, and the function that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.edits import CountingPass


@dataclass(frozen=True)
class Step:
    """A pass and the reason for its place in the order.

    Attributes:
        action: the pass.
        because: why the pass runs at this place.
    """

    action: ir.passes.PassBase
    because: str


def run_steps(model: ir.Model, steps: Sequence[Step]) -> list[CountingPass]:
    """Run passes over ``model``, in place, and return those that count.

    Raises:
        LampqError: a pass refused the graph as a whole.
    """
    if steps:
        try:
            ir.passes.Sequential(*(step.action for step in steps))(model)
        except ir.passes.PassError as error:
            # Sequential wraps what a pass raises; the user needs the message of the pass itself.
            if isinstance(error.__cause__, LampqError):
                raise error.__cause__ from error.__cause__.__cause__
            raise
    return [step.action for step in steps if isinstance(step.action, CountingPass)]
