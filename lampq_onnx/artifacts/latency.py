"""Measured time of layers, and of the rest of a graph, on one machine."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from lampq_onnx.artifacts.plan import FLOAT_BITS, BitPlan
from lampq_onnx.artifacts.sensitivities import LayerSensitivity
from lampq_onnx.disk.records import Artifact, Record
from lampq_onnx.errors import LampqError

_KEY = re.compile(r"(?P<operator>\w+) (?P<read>\d+(x\d+)*) by (?P<held>\d+(x\d+)*)\b")

_PROBE = "probe the float.onnx of this model: lampq-onnx probe float.onnx"


class ProbedLayer(Record):
    """One layer of the graph; layers of the same shape are measured once."""

    name: str = Field(description="name of the layer")
    shape: str = Field(description="key of the shape, e.g. MatMul 197x384 by 384x1152 bias")

    def fits(self, layer: LayerSensitivity) -> bool:
        """Whether a layer has the weight of this shape and, where it reads whole images, their size.

        A key in another form than that of `probe` says nothing, and fits.

        Args:
            layer: the layer of the model that the times may be for.
        """
        key = _KEY.match(self.shape)
        if key is None:
            return True
        read, held = (tuple(map(int, key[part].split("x"))) for part in ("read", "held"))
        if key["operator"] != "Conv":
            return set(held) == set(layer.shape) and math.prod(held) == layer.parameters
        same_input = layer.activation_elements in (None, math.prod(read))
        return held[0] == layer.shape[0] and math.prod(held) == layer.parameters and same_input


class LayerTime(Record):
    """Time of one layer shape in one form, run alone in a session."""

    shape: str = Field(description="key of the shape, see ProbedLayer")
    weight_bits: tuple[int, ...] = Field(description="weight widths with this time; 32 is float")
    activation_bits: tuple[int, ...] = Field(description="input widths with this time; 32 is float")
    storages: tuple[str, ...] = Field(description="storages with this time; empty for float")
    milliseconds: float = Field(gt=0, description="median over rounds")
    noise: float = Field(ge=0, description="standard error of the median, as a fraction of it")

    def covers(self, weight_bits: int, activation_bits: int, storage: str | None) -> bool:
        """Whether the time holds for these widths and this storage; storage None: any.

        Args:
            weight_bits: width of the weights.
            activation_bits: width of the input.
            storage: how the integers lie in the file.
        """
        return (
            weight_bits in self.weight_bits
            and activation_bits in self.activation_bits
            and (storage is None or not self.storages or storage in self.storages)
        )


class LatencyTable(Artifact):
    """Measured times from which the latency of any plan is predicted.

    A layer alone in a session behaves differently from a layer in a graph: neighbours fuse, weights leave the caches.
    So two whole files are timed too: one with every layer in float, one with every layer in its fastest form. What
    forms save is scaled by ``context`` so that the sum is right at both ends:

        latency(plan) = float_ms - context * sum_i (t_i(float) - t_i(form of i)).
    """

    format: Literal["lampq-onnx/latency"] = "lampq-onnx/latency"
    version: Literal[1] = 1
    model: str = Field(description="name of the float file")
    target: str = Field(description="target whose forms were timed")
    cpu: str = Field(description="name of the processor")
    onnxruntime: str = Field(description="version of onnxruntime")
    runtime: str = Field(
        default="", description="what was timed, and its arithmetic beside integers; empty in older tables: onnxruntime"
    )
    threads: int = Field(description="threads of the runtime")
    batch: int = Field(description="images in a batch")
    float_bytes: int = Field(gt=0, description="size of the float file")
    float_ms: float = Field(gt=0, description="whole file with every layer in float, median")
    fastest_ms: float = Field(gt=0, description="whole file with every layer in its fastest form, median")
    noise: float = Field(ge=0, description="half the interquartile range of their ratio, as a fraction of it")
    context: float = Field(gt=0, description="time saved in the graph divided by the time saved by layers alone")
    layers: tuple[ProbedLayer, ...] = Field(description="layers of the graph with their shapes")
    times: tuple[LayerTime, ...] = Field(description="times of every shape in every form")

    def layer_times(self) -> LayerTimes:
        """Return the times by layer name, for many look-ups."""
        own: dict[str, list[LayerTime]] = {}
        for time in self.times:
            own.setdefault(time.shape, []).append(time)
        return LayerTimes(self, {layer.name: tuple(own.get(layer.shape, ())) for layer in self.layers})

    @property
    def fixed_ms(self) -> float:
        """Time in ms that the graph takes beside its layers."""
        times = self.layer_times()
        return self.float_ms - sum(times.ms(layer.name, FLOAT_BITS, FLOAT_BITS) for layer in self.layers)

    def predict(self, plan: BitPlan) -> float:
        """Predict the latency in ms of the file of a plan.

        Args:
            plan: widths and storages; layers that it does not name stay in float.

        Raises:
            LampqError: a form was not measured.
        """
        times, total = self.layer_times(), self.fixed_ms
        for layer in self.layers:
            form = plan.layers.get(layer.name)
            widths = (FLOAT_BITS, FLOAT_BITS) if form is None else (form.weight_bits, form.activation_bits)
            total += times.ms(layer.name, *widths, None if form is None else form.storage)
        return total

    def require_layers(self, layers: Iterable[LayerSensitivity]) -> None:
        """Refuse a table that was made for another model.

        Args:
            layers: layers of the model.

        Raises:
            LampqError: a layer was not probed, or a layer of its name with another shape was.
        """
        known = {layer.name: layer for layer in self.layers}
        for model_layer in layers:
            if model_layer.name not in known:
                raise self.unknown(model_layer.name)
            if not known[model_layer.name].fits(model_layer):
                outputs, inputs = model_layer.shape
                raise LampqError(
                    f"the latency table of {self.model} was made for another model: its layer {model_layer.name} is "
                    f"{known[model_layer.name].shape}, and that of the model has {outputs} outputs and {inputs} inputs"
                    + (f", from {model_layer.activation_elements} numbers" if model_layer.activation_elements else ""),
                    hint=_PROBE,
                )

    def unknown(self, name: str) -> LampqError:
        """The error for a layer that was not probed.

        Args:
            name: the layer.
        """
        return LampqError(
            f"the latency table of {self.model} has no layer {name}: it was made for another model", hint=_PROBE
        )


@dataclass(frozen=True)
class LayerTimes:
    """A latency table, indexed by layer.

    Attributes:
        table: the latency table.
        layers: layer name -> times of its shape.
    """

    table: LatencyTable
    layers: Mapping[str, tuple[LayerTime, ...]]

    def ms(self, name: str, weight_bits: int, activation_bits: int, storage: str | None = None) -> float:
        """Return a layer's share of the graph's latency in ms in one form; storage None: any.

        Args:
            name: the layer.
            weight_bits: width of the weights; 32 is float.
            activation_bits: width of the input; 32 is float.
            storage: how the integers lie in the file.

        Raises:
            LampqError: the layer or the form was not measured.
        """
        if name not in self.layers:
            raise self.table.unknown(name)
        for time in self.layers[name]:
            if time.covers(weight_bits, activation_bits, storage):
                return self.table.context * time.milliseconds
        raise LampqError(
            f"the latency table of {self.table.model} has no time of layer {name} with {weight_bits} weight and "
            f"{activation_bits} input bits{f' in {storage} storage' if storage else ''}",
            hint="probe the float file again for this target: lampq-onnx probe float.onnx",
        )
