"""Write quantized files, check them, and describe them in a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from lampq_onnx.artifacts import BitPlan, Report, Sensitivities
from lampq_onnx.artifacts.gates import GateLimits
from lampq_onnx.artifacts.report import Baseline
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.converter import Conversion, convert_model, inspect_model
from lampq_onnx.converter.convert import check_file
from lampq_onnx.data import BatchedImages, ImageSource, batches_of
from lampq_onnx.disk.files import FLOAT_FILE, MODEL_FILE
from lampq_onnx.evaluation.checks import FilePair, check_files
from lampq_onnx.evaluation.measure import images_per_run, measure_accuracy, measure_latency
from lampq_onnx.evaluation.records import bit_averages, notes, with_layers
from lampq_onnx.evaluation.tasks.meters import meter_for
from lampq_onnx.graph.descriptions import describe_layers
from lampq_onnx.graph.keys import SOURCE_KEY
from lampq_onnx.graph.model_file import file_bytes, load_model, save_model
from lampq_onnx.graph.rewriting import forget_graphs
from lampq_onnx.graph.source import constants_sha256
from lampq_onnx.quantization import QuantizedWeight
from lampq_onnx.running.memory import give_back
from lampq_onnx.running.progress import Clock
from lampq_onnx.runtime import open_runner
from lampq_onnx.runtime.engine import engine_for
from lampq_onnx.targets import Target
from lampq_onnx.workflow.half import STAGE, measure_on_crops

if TYPE_CHECKING:
    from lampq_onnx.frontend.rounding.plan import RoundedPlan
    from lampq_onnx.frontend.session import Frontend
    from lampq_onnx.frontend.shared.batching import SlicedImages


def write_quantized(
    model: ir.Model,
    plan: BitPlan,
    weights: Mapping[str, QuantizedWeight],
    path: Path,
    options: OutputOptions,
    target: Target,
    metadata: Mapping[str, str] | None = None,
) -> Conversion:
    """Convert ``model`` (changed in place), save it and run the onnx package's full check on the file.

    Raises:
        LampqError: plan, weights and graph do not fit together, or the file fails the check.
    """
    source = constants_sha256(model)
    packing = target.packing if options.packing == "auto" else options.packing
    conversion = convert_model(
        model,
        plan,
        packing=packing,
        target=target,
        weights=weights,
        batch=options.batch,
        one_attention=options.attention == "operator",
    )
    describe_layers(conversion.model, plan)
    conversion.model.metadata_props.update({SOURCE_KEY: source, **(metadata or {})})
    save_model(conversion.model, path)
    check_file(path)
    return conversion


class QuantizedOutput:
    """Writes and checks files of one model on one set of validation images.

    Args:
        frontend: the float model, whose graph is written first.
        calibration: images that show what overflows in float16, if the target computes in it.
        validation: labelled images.
        options: form of the files, and how they are measured.
        target: where the files are meant to run.
        threads: threads for the accuracy passes.
        stage: folder for the files.
        clock: keeps the seconds of each stage.
    """

    def __init__(
        self,
        frontend: Frontend,
        calibration: SlicedImages,
        validation: ImageSource | BatchedImages,
        options: OutputOptions,
        target: Target,
        threads: int,
        stage: Path,
        clock: Clock,
    ) -> None:
        self._frontend = frontend
        self._validation = validation
        self._options = options
        self._target = target
        self._engine = engine_for(options.runtime, options.inference_precision, target.name)
        self._threads = threads
        self._stage = stage
        self._clock = clock
        self._float = stage / FLOAT_FILE
        save_model(frontend.model, self._float)
        if target.half:
            with clock.stage(STAGE):
                measure_on_crops(frontend.model, self._float, calibration, threads)
            save_model(frontend.model, self._float)

    def run(
        self,
        rounded: RoundedPlan,
        sensitivities: Sensitivities,
        metadata: Mapping[str, str],
        limits: GateLimits,
        *,
        details: bool = True,
    ) -> Report:
        """Write model.onnx and measure everything about it; other stages complete the report.

        Args:
            rounded: plan and weights.
            sensitivities: sensitivities of the same model.
            metadata: metadata entries for the file.
            limits: gates, stored in the report.
            details: see `check_files`.
        """
        path = self._stage / MODEL_FILE
        with self._clock.stage("conversion"):
            conversion = self._convert(rounded, path, metadata)
            layers = inspect_model(conversion.model)
            # The checks read the file. The graph would stay in memory with all weights in float and as integers.
            parameters, passes, not_done = conversion.parameters, dict(conversion.passes), conversion.not_done
            del conversion
            forget_graphs()
            give_back(cycles=True)
        files = FilePair(
            model=sensitivities.model.name,
            reference=self._float,
            quantized=path,
            layers=layers,
            plan=rounded.plan,
            images=self._validation,
            preprocessing=self._frontend.loaded.preprocessing,
            task=self._frontend.loaded.task,
        )
        report = check_files(
            files,
            self._options,
            target=self._target.name,
            threads=self._threads,
            clock=self._clock,
            limits=limits,
            simulation=self._frontend.simulation(parameters),
            details=details,
        )
        source = self._frontend.loaded.source
        imported = () if source is None else source.not_done
        return report.model_copy(
            update={
                "passes": passes,
                "not_done": (*imported, *not_done),
                "layers": with_layers(report.layers, sensitivities, rounded.methods),
                "notes": (*report.notes, *notes(sensitivities, rounded.plan, self._frontend.multiplied)),
            }
        )

    def baseline(self, rounded: RoundedPlan, name: str) -> Baseline:
        """Measure accuracy, size and latency of another plan; its file is not kept."""
        path = self._stage / f"{name}.{MODEL_FILE}"
        with self._clock.stage(f"baseline {name}"):
            found = self.measure(rounded, path)
            path.unlink()
            path.with_name(path.name + ".data").unlink(missing_ok=True)
        return found

    def measure(self, rounded: RoundedPlan, path: Path) -> Baseline:
        """Write a plan's file to ``path`` and measure its accuracy, size and latency."""
        self._convert(rounded, path)
        loaded = self._frontend.loaded
        first, second = (
            open_runner(file, threads=self._threads, answers=loaded.task.outputs, engine=engine)
            for file, engine in ((self._float, replace(self._engine, precision="f32")), (path, self._engine))
        )
        meter = meter_for(loaded.task, self._validation, loaded.preprocessing)
        count = images_per_run(loaded.preprocessing.size, first, second)
        batches = batches_of(self._validation, loaded.preprocessing, count)
        figures = measure_accuracy(first, second, None, None, batches, total=len(self._validation), meter=meter)
        images = next(batches_of(self._validation, loaded.preprocessing, count)).images
        latency = measure_latency(
            self._float,
            path,
            np.resize(images, (self._options.latency_batch, *images.shape[1:])),
            threads=self._options.latency_threads,
            runs=self._options.latency_runs,
            engine=self._engine,
        )
        return Baseline(
            weight_average=bit_averages(rounded.plan, ()).weight_average,
            accuracy=figures.accuracy,
            quantized_bytes=file_bytes(path),
            latency=latency,
        )

    def _convert(self, rounded: RoundedPlan, path: Path, metadata: Mapping[str, str] | None = None) -> Conversion:
        return write_quantized(
            load_model(self._float), rounded.plan, rounded.weights, path, self._options, self._target, metadata
        )
