"""Names the layers of an ONNX file, and records why some of them stay in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir
import torch

from lampq_onnx.frontend.onnx_model.model import Built
from lampq_onnx.frontend.shared.onnx_source import OnnxSource
from lampq_onnx.graph.keys import MODULE_KEY
from lampq_onnx.graph.layers import LinearSite, annotate, find_sites, module_path
from lampq_onnx.graph.other_weights import other_weights
from lampq_onnx.graph.patches import OVERLAPPING, overlaps


def source_of(model: ir.Model, built: Built) -> OnnxSource:
    """Name the layers in the graph, and record for all other weights why they are not quantized."""
    modules: dict[str, torch.nn.Module] = {}
    for node, module in built.layers.items():
        key = str(len(modules))
        node.metadata_props[MODULE_KEY] = key
        modules[key] = module
    skipped: dict[str, str] = {}
    units: list[LinearSite] = []
    sites = _named(find_sites(model.graph), built.depth)
    for site in sites:
        if site.node not in built.layers:
            skipped[site.name] = "it does not depend on the image, or its bias or padding is of an unusual form"
        elif overlaps(site):
            skipped[site.name] = OVERLAPPING
        else:
            annotate(site, site.name)
            units.append(site)
    skipped |= other_weights(model.graph, sites)
    return OnnxSource(model, tuple(units), modules, skipped)


def _named(sites: Sequence[LinearSite], depth: Mapping[ir.Node, int]) -> list[LinearSite]:
    """Sites with unique names: from their weights or modules, otherwise from their place in the model."""
    found = []
    for site in sites:
        if _tells(site):
            name = module_path(site.name)
        elif site.node in depth:
            name = f"blocks.{depth[site.node]}.{site.type}"
        else:
            name = site.type
        found.append(replace(site, name=name))
    taken: set[str] = set()
    unique = []
    for site in found:
        name, number = site.name, 2
        while name in taken:
            name, number = f"{site.name}.{number}", number + 1
        taken.add(name)
        unique.append(replace(site, name=name))
    return unique


def _tells(site: LinearSite) -> bool:
    """Whether a name says where in the model its layer is, and is not just a number."""
    bias = site.bias.name if site.bias is not None else None
    parameter = any((name or "").endswith((".weight", ".bias")) for name in (site.weight.name, bias))
    if site.name.startswith("/"):
        return bool(module_path(site.name))
    return parameter or "/" in site.name or "." in site.name.replace("onnx::", "")
