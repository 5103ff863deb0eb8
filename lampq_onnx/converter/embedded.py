"""The plan inside a converted file.

Pools hold the width of every row (`packing.pools`), so the plan inside the file leaves out the order of the channels of
these layers: as text it would take many times the bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from pydantic import ValidationError

from lampq_onnx.artifacts import BitPlan, ChannelWidths
from lampq_onnx.artifacts.channel_widths import write_order
from lampq_onnx.converter.packing.pool_rows import channel_rows, pool_row_bits
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.keys import CHANNEL_ROWS_KEY, PLAN_KEY, UNIT_KEY


def embed_plan(model: ir.Model, plan: BitPlan) -> None:
    """Write the plan into the metadata of a converted graph."""
    text = plan.model_dump_json(exclude_none=True)
    pooled = set(_scaling_nodes(model))
    mixed = pooled & {name for name, layer in plan.layers.items() if layer.channel_widths is not None}
    if mixed:
        data = json.loads(text)
        for name in mixed:
            del data["layers"][name]["channel_widths"]["order"]
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    model.metadata_props[PLAN_KEY] = text


def embedded_plan(model: ir.Model, path: Path) -> BitPlan | None:
    """Read the plan inside a converted file; None for files of other tools.

    The order of channels whose rows are in a pool is the natural one within a width.

    Raises:
        LampqError: the plan in the file is damaged, or the nodes that tell the widths of the channels are.
    """
    text = model.metadata_props.get(PLAN_KEY)
    if text is None:
        return None
    try:
        return BitPlan.model_validate_json(text if "channel_widths" not in text else _completed(model, text))
    except (ValidationError, ValueError, AttributeError, TypeError) as error:
        raise LampqError(f"the plan inside {path} (metadata {PLAN_KEY}) is damaged") from error


def _completed(model: ir.Model, text: str) -> str:
    """Return the plan's text with the orders that the pools of the graph hold."""
    data: dict[str, Any] = json.loads(text)
    places = {}
    for name, node in _scaling_nodes(model).items():
        place = channel_rows(node)
        if place is not None:
            places[name] = place
    bits = pool_row_bits(model.graph, {place.pool for place in places.values()})
    for name, layer in data["layers"].items():
        widths = layer.get("channel_widths")
        if widths is None or "order" in widths:
            continue
        count = sum(widths["counts"].values())
        place = places.get(name)
        pool = np.zeros(0, np.int8) if place is None else bits.get(place.pool, np.zeros(0, np.int8))
        rows = pool if place is None else pool[place.first : place.first + count]
        if len(rows) != count:
            raise LampqError(
                f"the plan inside the file says how many output channels of layer {name} have each width, but the "
                "nodes that tell which of them are gone",
                hint="use the file as quantize or convert wrote it, before other tools changed it",
            )
        widths["order"] = write_order(ChannelWidths.from_rows(rows).order)
    return json.dumps(data)


def _scaling_nodes(model: ir.Model) -> dict[str, ir.Node]:
    """Layer -> the node that scales its weight, for layers whose rows are in a pool."""
    return {
        node.metadata_props.get(UNIT_KEY, "").removesuffix(".weight"): node
        for node in model.graph
        if CHANNEL_ROWS_KEY in node.metadata_props
    }
