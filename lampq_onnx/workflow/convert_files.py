"""`convert`: a float file and a plan to a quantized file. Needs no PyTorch."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from lampq_onnx.artifacts import BitPlan
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.converter import Conversion
from lampq_onnx.converter.convert import require_runnable
from lampq_onnx.disk.existing import require_new_files
from lampq_onnx.disk.files import staging
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.matching import fit_plan, names_layers
from lampq_onnx.graph.model_file import load_model
from lampq_onnx.graph.quantized_operators import require_float_file
from lampq_onnx.importer import is_foreign, write_normal_form
from lampq_onnx.quantization.weights_file import load_weights
from lampq_onnx.running.progress import NO_PROGRESS, ProgressSink
from lampq_onnx.runtime.environment import target_here
from lampq_onnx.workflow.half import with_overflows
from lampq_onnx.workflow.output import write_quantized
from lampq_onnx.workflow.ranges import with_measured_ranges


def convert(
    float_path: Path,
    plan: BitPlan,
    output: Path,
    options: OutputOptions,
    images: ImageOptions,
    weights_path: Path | None = None,
    *,
    overwrite: bool = False,
    progress: ProgressSink = NO_PROGRESS,
) -> Conversion:
    """Write the QDQ file of a plan; torch is not needed.

    A plan made on another file of the model is matched by the layers' weights. Ranges that the plan lacks are measured
    (min-max) on ``images.calibration`` with onnxruntime. Layers whose planned width is in ``weights_path`` (a
    weights.safetensors) use its rounding; the others are rounded to nearest.

    Args:
        float_path: the float file.
        plan: widths by layer name.
        output: the file to write.
        options: target and packing.
        images: calibration images for missing ranges.
        weights_path: rounded weights; None: round to nearest.
        overwrite: replace ``output`` if it exists.
        progress: is told about stages.

    Raises:
        UsageError: ``output`` exists.
        LampqError: the plan quantizes nothing, the plan or the weights do not fit the file, or ranges are missing and
            there are no images.
    """
    target = target_here(options.target_name)
    require_runnable(plan, target)
    require_new_files((output,), overwrite=overwrite)
    if not any(layer.quantized for layer in plan.layers.values()):
        raise LampqError(
            f"the plan leaves all of its {len(plan.layers)} layers in float: there is nothing to convert",
            hint="give layers a weight_bits below 32",
        )
    weights = {} if weights_path is None else load_weights(weights_path)
    with ExitStack() as stack:
        model = load_model(float_path)
        require_float_file(model, float_path)
        if is_foreign(model) and not names_layers(model, plan):
            room = Path(stack.enter_context(TemporaryDirectory(prefix="lampq-")))
            float_path = write_normal_form(float_path, images, room / float_path.name)
            model = load_model(float_path)
        fitted = fit_plan(model, plan)
        plan = fitted.plan
        if fitted.renamed and weights_path is not None:
            raise LampqError(
                f"{weights_path} was written with another float file than {float_path}, whose layers have other names",
                hint="leave out --weights: the layers are then rounded to nearest",
            )
        plan = with_measured_ranges(model, float_path, plan, images, target, threads=options.threads, progress=progress)
        with_overflows(model, float_path, images, target, threads=options.threads, progress=progress)
        stage = stack.enter_context(staging(output.parent, (output.name,)))
        return write_quantized(model, plan, weights, stage / output.name, options, target)
