"""Small Vision Transformers as ONNX files of several exporters."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import onnx_ir as ir
import torch

SHAPE = (3, 16, 16)


def by_dynamo(model: torch.nn.Module, path: Path, opset: int) -> Path:
    """torch's present exporter, with a symbolic batch dimension."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (torch.zeros(2, *SHAPE),),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    program.save(path)
    return path


def by_torchscript(model: torch.nn.Module, path: Path, opset: int, *, batch: int | None = None) -> Path:
    """torch's old exporter; a fixed batch size, or a symbolic one (None)."""
    axes = {"pixel_values": {0: "batch"}, "logits": {0: "batch"}} if batch is None else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(batch or 2, *SHAPE),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes=axes,
        )
    return path


def without_names(source: Path, path: Path) -> Path:
    """The same graph with numbered constants and nothing else that tells where a node comes from."""
    model = ir.load(source)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.name = None
    for index, value in enumerate(list(model.graph.initializers.values())):
        value.metadata_props.clear()
        value.name = f"t{index}"
    ir.save(model, path)
    return path
