"""Which tensors of a float graph overflow in float16, and where a graph says so."""

from __future__ import annotations

import json
from dataclasses import dataclass

import onnx_ir as ir

from lampq_onnx.errors import LampqError
from lampq_onnx.graph.keys import FLOAT32_KEY


@dataclass(frozen=True)
class Overflows:
    """What does not fit in float16, as measured on images.

    Attributes:
        values: tensors with numbers that are too large.
        norms: results of normalizations whose sum of squares is too large, although their inputs are not.
    """

    values: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()

    def wide(self, *, wide_sums: bool) -> frozenset[str]:
        """Return the tensors that have to be computed in float32.

        Args:
            wide_sums: see `Target.wide_sums`.
        """
        return frozenset(self.values if wide_sums else (*self.values, *self.norms))


def write_overflows(model: ir.Model, found: Overflows) -> None:
    """Write what was measured into the metadata of the float graph."""
    model.metadata_props[FLOAT32_KEY] = json.dumps({"values": found.values, "norms": found.norms})


def read_overflows(model: ir.Model) -> Overflows | None:
    """Read what was measured; None: nothing was.

    Raises:
        LampqError: the metadata is damaged.
    """
    text = model.metadata_props.get(FLOAT32_KEY)
    if text is None:
        return None
    try:
        data = json.loads(text)
        return Overflows(tuple(map(str, data["values"])), tuple(map(str, data["norms"])))
    except (ValueError, KeyError, TypeError) as error:
        raise LampqError(f"the metadata {FLOAT32_KEY} of the file is damaged", hint="export the model again") from error
