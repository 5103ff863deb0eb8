"""The model and images that files for all targets are made from, and a row of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lampq_onnx.artifacts import BitPlan, LayerPlan
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.converter import convert_model
from lampq_onnx.data import iter_batches, open_source
from lampq_onnx.graph.layers import find_layers
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.targets import FLOAT, Packing, Target
from lampq_onnx.workflow.half import with_overflows
from lampq_onnx.workflow.ranges import with_measured_ranges

FORMS = ((8, 8), (4, 8), (5, 8), (4, FLOAT))
"""Widths of weights and inputs, the same in every layer. 5 bits lie in shared bytes, where the target has them."""


@dataclass(frozen=True)
class Row:
    """What one runtime does with one file.

    Attributes:
        runtime: with its version.
        target: name of the target.
        form: e.g. W8/A8; empty: all.
        loads: yes, or why not.
        integer: layers on kernels of integers, or of packed weights, by the runtime's own word.
        worst: largest relative error of a layer against the arithmetic that the file says.
        agreement: with the float model.
        speed: times as fast as the float file in this runtime, at batch 1 and 8.
    """

    runtime: str
    target: str
    form: str
    loads: str = ""
    integer: str = ""
    worst: str = ""
    agreement: str = ""
    speed: str = ""


def not_run(runtime: str, target: str, why: str) -> Row:
    """A row that could not be run."""
    return Row(runtime, target, "", loads=f"not run: {why}")


@dataclass
class Case:
    """A float file with images.

    Attributes:
        float_file: the float file.
        calibration: images that give the ranges of the inputs.
        validation: where the images come from.
        images: (n, c, h, w), ready for the model.
        folder: for the files of the targets.
    """

    float_file: Path
    calibration: Path
    validation: Path
    images: np.ndarray
    folder: Path
    _plans: dict[bool, BitPlan] = field(default_factory=dict, repr=False)

    @property
    def _calibration(self) -> ImageOptions:
        return ImageOptions(calibration=self.calibration, calibration_size=32)

    def plan(self, target: Target, weight_bits: int, activation_bits: int) -> BitPlan:
        """The same widths in every layer, with measured ranges."""
        if target.output_ranges not in self._plans:
            model = load_model(self.float_file)
            names = [layer.name for layer in find_layers(model.graph)]
            plan = BitPlan(layers=dict.fromkeys(names, LayerPlan(weight_bits=8, activation_bits=8)))
            self._plans[target.output_ranges] = with_measured_ranges(
                model, self.float_file, plan, self._calibration, target, threads=1
            )
        widths: dict[str, object] = {"weight_bits": weight_bits, "activation_bits": activation_bits}
        if activation_bits == FLOAT:
            widths["activation_range"] = None
        measured = self._plans[target.output_ranges]
        return BitPlan(layers={name: layer.model_copy(update=widths) for name, layer in measured.layers.items()})

    def file(self, target: Target, weight_bits: int, activation_bits: int, packing: Packing | None = None) -> Path:
        """The file of a target, rounded to nearest."""
        plan = self.plan(target, weight_bits, activation_bits)
        path = self.folder / f"{target.name}.W{weight_bits}A{activation_bits}{packing or ''}.onnx"
        model = load_model(self.float_file)
        with_overflows(model, self.float_file, self._calibration, target, threads=1)
        save_model(convert_model(model, plan, packing=packing, target=target).model, path)
        return path


Rows = Callable[[Case], Iterator[Row]]
"""What the module of a runtime has as `rows`."""


def embedded(folder: Path, count: int) -> Case:
    """The model of digits, which is in the package, with its own images."""
    from lampq_onnx.frontend.models.digits import split_images
    from lampq_onnx.frontend.models.export import export_model
    from lampq_onnx.frontend.models.loading import load_digits

    save_model(export_model(load_digits()).model, folder / "float.onnx")
    for part in ("calibration", "test"):
        pixels, labels = split_images(part)
        np.savez(folder / f"{part}.npz", images=pixels, labels=labels)
    return given(folder / "float.onnx", folder / "calibration.npz", folder / "test.npz", folder, count)


def given(float_file: Path, calibration: Path, validation: Path, folder: Path, count: int) -> Case:
    """A float file that lampq-onnx wrote, with images of its own."""
    facts = read_metadata(load_model(float_file), float_file)
    source = open_source(validation, num_classes=facts.num_classes, need_labels=False)
    batches = iter_batches(source, facts.preprocessing, min(count, len(source)))
    return Case(float_file, calibration, validation, next(iter(batches)).images, folder)
