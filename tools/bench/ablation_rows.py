"""Rows of the ablation: how each of them gives out bits.

A row is the name of an allocation, with +update if the iterative update follows. In front of it stands what gets a
width of its own: nothing for layers, group: for groups of output channels at the same average bits, and group-bytes:
for groups of output channels in a file of as many bytes as that of the layers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import typer

from lampq_onnx import allocation
from lampq_onnx.allocation.rungs import ladders_of
from lampq_onnx.artifacts import BitPlan, ChannelWidths, Sensitivities
from lampq_onnx.config.options import EffortName, UpdateOptions
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.batching import SlicedImages
from lampq_onnx.graph.model_file import file_bytes, load_model, save_model
from lampq_onnx.quantization import QuantizedWeight
from lampq_onnx.runtime.environment import target_here
from lampq_onnx.workflow.output import write_quantized

CANDIDATES = allocation.DEFAULTS.candidates
UPDATE, GROUP, GROUP_BYTES = "+update", "group:", "group-bytes:"
PREFIXES = {"": "layer", GROUP: "group", GROUP_BYTES: "group, equal bytes"}
UNIFORM, MODULES, DEFAULT = "uniform", "vt-ptq", "kl+update"

TITLES = {  # of the rows that are printed unless others are asked for
    UNIFORM: "uniform bits",
    MODULES: "module-wise nuclear norm (VT-PTQ)",
    "nuclear-norm": "layer-wise nuclear norm",
    "fisher": "Fisher without alpha",
    "lampq": "alpha x Fisher (I1+I2)",
    "uniform+update": "uniform bits, update (I1+I3)",
    "lampq+update": "alpha x Fisher, update (I1+I2+I3: LampQ)",
    "omega-error": "alpha x Fisher x rounding error",
    "directional": "directional Fisher",
    "kl": "measured KL",
    DEFAULT: "measured KL, update",
}
SHOWN = (*TITLES, GROUP + "kl", GROUP + DEFAULT, GROUP_BYTES + DEFAULT)
METRIC_OF = {MODULES: "nuclear-norm", "directional": "kl"}  # others have the row's name
COSTS: dict[str, EffortName] = {"kl": "balanced", "directional": "fast"}  # rows that read costs: who measures them
KNOWN = tuple(
    prefix + name + update
    for name in TITLES
    if "+" not in name
    for prefix in PREFIXES
    for update in ("", UPDATE)
    if name != MODULES or prefix + update == ""
)
CLOSE, TRIES = 2e-4, 5
"""Files of equal bytes differ by at most this share; bits are corrected this often at most."""


def prefix_of(row: str) -> str:
    """What stands in front of a row's allocation."""
    return next((prefix for prefix in (GROUP, GROUP_BYTES) if row.startswith(prefix)), "")


def layers_of(row: str) -> str:
    """The same row with one width for each layer."""
    return row.removeprefix(prefix_of(row))


def name_of(row: str) -> str:
    """The allocation of a row."""
    return layers_of(row).removesuffix(UPDATE)


def title(row: str) -> str:
    """The row in words, without what gets a width."""
    return TITLES.get(layers_of(row), layers_of(row))


@dataclass
class Measured:
    """One seed of one model, ready to give out bits.

    Attributes:
        known: row of `COSTS` -> what was measured for it.
        float_file: the model as it is quantized.
    """

    frontend: Frontend
    crops: SlicedImages
    known: dict[str, Sensitivities]
    float_file: Path
    update: UpdateOptions
    inputs: int | Literal["same"]

    def plan(self, row: str, bits: float) -> BitPlan:
        """The widths of every layer in this row."""
        if prefix_of(row) == GROUP_BYTES:
            return self._groups_in_bytes(row, bits, self.bytes(self.plan(layers_of(row), bits)))
        name, groups = name_of(row), prefix_of(row) == GROUP
        metric, sensitivities = METRIC_OF.get(name, name), self.known.get(name) or next(iter(self.known.values()))
        options = allocation.AllocationOptions(
            bits=bits, metric=metric, gamma=4.0, activation_bits=self.inputs, granularity="group" if groups else "layer"
        )
        plan, _ = allocation.allocate(sensitivities, options)
        if row == MODULES:
            return self._with_widths(plan, module_wise(sensitivities, bits), sensitivities)
        if row.endswith(UPDATE) and groups:
            return self._updated_mixes(plan, sensitivities, options)
        if row.endswith(UPDATE):
            return self._updated(plan, sensitivities, bits)
        return plan

    def bytes(self, plan: BitPlan, weights: Mapping[str, QuantizedWeight] | None = None) -> int:
        """Bytes of the whole file of a plan; without weights those of the analysis are written."""
        rounder = self.frontend.rounder
        weights = weights or {
            name: rounder.quantized(name, layer.widths) for name, layer in plan.layers.items() if layer.quantized
        }
        with tempfile.TemporaryDirectory(prefix="lampq-") as folder:
            path = Path(folder, "model.onnx")
            write_quantized(load_model(self.float_file), plan, weights, path, OutputOptions(), target_here("auto"))
            return file_bytes(path)

    def _groups_in_bytes(self, row: str, bits: float, limit: int) -> BitPlan:
        """Groups of channels with as many bits as a file of ``limit`` bytes holds; the update keeps the bits.

        Where even the narrowest groups take more, because of the nodes that unpack them, each layer has one width, as
        with --max-size.
        """
        weights = sum(layer.parameters for layer in allocation.budgeted_layers(next(iter(self.known.values()))))
        least, most = float(CANDIDATES[0]), float(CANDIDATES[-1])
        asked, fitting = bits, None
        for _ in range(TRIES):
            size = self.bytes(self.plan(GROUP + name_of(row), bits))
            if size <= limit:
                fitting = max(bits, fitting or 0.0)
                if size >= (1 - CLOSE) * limit or bits == most:
                    break
            elif bits == least:
                break
            bits = min(max(bits + 8 * (limit - size) / weights - (size > limit) * CLOSE, least), most)
        if fitting is None:
            typer.echo(f"{row}, {asked:g} bits: no groups fit in {limit} bytes; each layer has one width", err=True)
            return self.plan(layers_of(row), asked)
        return self.plan(GROUP + layers_of(row), fitting)

    def _with_widths(self, plan: BitPlan, widths: dict[str, int], sensitivities: Sensitivities) -> BitPlan:
        if self.inputs == "same":
            ranges = {layer.name: layer.activation_ranges for layer in sensitivities.layers}
            return plan.with_coupled_bits(widths, ranges)
        return plan.with_weight_bits(widths)

    def _updated(self, plan: BitPlan, sensitivities: Sensitivities, bits: float) -> BitPlan:
        """The plan after the update of whole layers."""
        sizes = {layer.name: layer.parameters for layer in allocation.budgeted_layers(sensitivities)}
        coupled = sensitivities if self.inputs == "same" else None
        widths = allocation.iterative_update(
            {name: plan.layers[name].weight_bits for name in sizes}, sizes,
            allocation.capacity_of(bits, sum(sizes.values())), CANDIDATES,
            self.frontend.evaluator(plan, self.crops, self.update, coupled=coupled),
            rounds=self.update.rounds, patience=self.update.patience, budget_rule=self.update.rule,
        ).bits  # fmt: skip
        return self._with_widths(plan, widths, sensitivities)

    def _updated_mixes(
        self, plan: BitPlan, sensitivities: Sensitivities, options: allocation.AllocationOptions
    ) -> BitPlan:
        """The plan after the update of layers whose output channels differ in width."""
        sizes = {layer.name: layer.parameters for layer in allocation.budgeted_layers(sensitivities)}
        ladders, start = ladders_of(sensitivities, plan, sizes, CANDIDATES, options)
        found = allocation.update_mixes(
            start, ladders, allocation.capacity_of(options.bits, sum(sizes.values())),
            self.frontend.evaluator(plan, self.crops, self.update),
            rounds=self.update.rounds, patience=self.update.patience,
        ).bits  # fmt: skip
        widths = {name: ladders[name][rung].widths for name, rung in found.items()}
        plan = plan.with_weight_bits({name: own for name, own in widths.items() if isinstance(own, int)})
        return plan.with_channel_widths({name: own for name, own in widths.items() if isinstance(own, ChannelWidths)})


def save_float(frontend: Frontend, path: Path) -> Path:
    """Write the model as it is quantized."""
    save_model(frontend.model, path)
    return path


def module_wise(sensitivities: Sensitivities, bits: float) -> dict[str, int]:
    """Widths of least cost, the same within a module: layers whose names are equal except for the last part."""
    layers = allocation.budgeted_layers(sensitivities)
    modules = [layer.name.rpartition(".")[0] for layer in layers]
    names = tuple(dict.fromkeys(modules))
    members = [names.index(module) for module in modules]
    costs, sizes = np.zeros((len(names), len(CANDIDATES))), np.zeros(len(names), dtype=np.int64)
    np.add.at(costs, members, allocation.METRICS["nuclear-norm"](sensitivities, CANDIDATES, 4.0))
    np.add.at(sizes, members, [layer.parameters for layer in layers])
    found = allocation.solve(allocation.Problem(names, sizes, CANDIDATES, costs, bits)).bits
    return {layer.name: found[module] for layer, module in zip(layers, modules, strict=True)}
