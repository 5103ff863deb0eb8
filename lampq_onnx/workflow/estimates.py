"""What a run will take: its stages in order, with a rough time and the memory it needs at most."""

from __future__ import annotations

from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.stages import Stages
from lampq_onnx.evaluation.checks import PROFILED_RUNS
from lampq_onnx.evaluation.measure import FIDELITY_IMAGES, LAYER_IMAGES
from lampq_onnx.evaluation.output_errors import ERROR_IMAGES
from lampq_onnx.frontend.equalized import IMAGES as EQUALIZATION_IMAGES
from lampq_onnx.frontend.equalized import compares_options
from lampq_onnx.frontend.rounding.effort import EFFORTS, Effort
from lampq_onnx.graph.recognition import PlannedStage
from lampq_onnx.running.load import Load
from lampq_onnx.runtime.latency import WARM_UP

IMAGE_BATCH = 32
"""Largest number of images in one pass."""

LIBRARIES = 1.05e9
"""Bytes of PyTorch with its exporter, onnxruntime and this package."""

CUDA = 1.2e9
"""Bytes of CUDA's libraries on the machine."""

MODELS = 5
"""Copies of the float weights that exist together while the file is checked.

The model, its graph, the float file and the quantized file in the runtime, and the weights that the file without
optimizations unpacks.
"""

BACKWARD = 2.0
"""Time of a pass with gradients of the activations, over that of a pass forward."""

COLUMN = 1.8e-4
"""Seconds that GPTQ takes for a column on a processor besides its arithmetic: columns follow one after the other."""

GRAPHED_COLUMN = 5e-5
"""The same on a GPU, where columns are a CUDA graph."""

AGAIN = 0.9
"""Seconds to write equalized weights into the graph, of a DeiT-Ti."""

WAIT = 0.1
"""Seconds for each layer that a GPU waits for Python while the layer's inputs are equalized."""

ROUNDED = 8e-8
"""Seconds that a processor takes to round a weight to one width, besides the products of GPTQ."""

UPLOAD = 1.5e-9
"""Seconds to bring the codes of a weight to a GPU, which the shares of channels do for 3 widths in batches of 16."""

PACKING = 2.5e-8
"""Seconds to convert a weight and to write it."""

PLAIN = 2.0
"""Time of a pass through the quantized file without optimizations, over that of float."""

SOLVING = 1.0
"""Seconds of the integer program, most of them to import the solver."""

COMPARED = 20
"""Passes that take as long as comparing the options of equalization on an image."""

PREDICTED = 8
"""The same if a closed form decides."""


def planned_stages(recipe: Recipe, stages: Stages, load: Load, count: int) -> tuple[PlannedStage, ...]:
    """List the stages of a run in their order.

    Args:
        recipe: all options.
        stages: what runs, see `stages_of`.
        load: what the model costs.
        count: number of calibration images.
    """
    found = measuring_stages(recipe, stages, load, count)
    found += deciding_stages(recipe, stages, load, count)
    if stages.layer_errors:
        found.append(("reconstruction errors", 4 * min(count, 64) * load.image))
    found.append(("conversion", PACKING * load.weights))
    return tuple(PlannedStage(name, seconds) for name, seconds in found)


def checking_stages(
    recipe: Recipe, stages: Stages, load: Load, images: int, reading: float
) -> tuple[PlannedStage, ...]:
    """List the stages that check the file, which run on the processor.

    Args:
        recipe: all options.
        stages: what runs, see `stages_of`.
        load: what the model costs.
        images: number of validation images.
        reading: seconds to read an image.
    """
    single = load.host * min(recipe.output.threads or 1, 2)
    runs = recipe.output.latency_runs + (PROFILED_RUNS + WARM_UP if stages.layer_errors else 0) + WARM_UP
    compared = min(images, FIDELITY_IMAGES)
    found = [
        ("simulation", (reading + load.host) * compared),
        ("validation", reading * images + (1.6 * images + PLAIN * compared) * load.host + PACKING * load.weights),
        ("fidelity", 1.5 + 12 * LAYER_IMAGES * load.host),
        ("latency", 1.5 * runs * recipe.output.latency_batch * single),
    ]
    if stages.layer_errors:
        found.append(("output errors", 1.0 + 1.4 * ERROR_IMAGES * load.host))
    return tuple(PlannedStage(name, seconds) for name, seconds in found)


def measuring_stages(recipe: Recipe, stages: Stages, load: Load, count: int) -> list[tuple[str, float]]:
    """List the stages up to the sensitivities by the names that they have while they run, with their seconds."""
    effort, widths = EFFORTS[recipe.analysis.effort], len(recipe.allocation.candidates)
    held, asked, image = max(1, min(count // 4, 64)), stages.measurements, load.image
    found: list[tuple[str, float]] = []
    if stages.equalization:
        few = min(count, EQUALIZATION_IMAGES)
        waiting = WAIT * load.layers if load.gpu else 0.0
        compared = (
            COMPARED if compares_options(recipe.allocation.bits, recipe.allocation.activation_bits) else PREDICTED
        )
        found.append(("equalization", waiting + few * image + min(held, few // 4) * image * (BACKWARD + compared)))
        found.append(("export", AGAIN))
    found.append(("ranges", (2 * count + held * (BACKWARD + 9)) * image))
    if "trace" in asked:
        found.append(("traces", min(count, 128) * (BACKWARD + 1) * image))
    if "weight_error" in asked:
        found.append(("weight errors", load.seconds(60.0 * widths * load.weights)))
    if "nuclear_norm" in asked:
        found.append(("nuclear norms", 8 * 10 * image))
    if "alpha" in asked:
        found.append(("alpha", 4 * recipe.analysis.alpha_samples * min(count, 32) * image))
    if "weight_cost" in asked:
        rounding, passes = _weight_costs(effort, load, widths, count)
        if recipe.rounding.method == "gptq":
            found.append(("cost candidates", rounding))
        found.append(("costs", passes))
    if stages.input_costs in ("measured", "grouped"):
        passes = load.layers if stages.input_costs == "measured" else load.blocks
        # Where all inputs of a block together cost too much, each is measured alone.
        found.append(("input costs", 2.4 * passes / 2 * min(held, 32) * image))
    if stages.moments:
        found.append(("input moments", 2.4 * count * image))
    if stages.shares:
        images = min(count, 128)
        upload = UPLOAD * load.weights * 3 * images / 16 if load.gpu else 0.0
        found.append(("channel shares", images * (2 * BACKWARD + 4) * image + upload + _sweep(load, widths)))
    return found


def deciding_stages(recipe: Recipe, stages: Stages, load: Load, count: int) -> list[tuple[str, float]]:
    """List the stages from the sensitivities to rounded weights, with their seconds."""
    found: list[tuple[str, float]] = []
    effort, image = EFFORTS[recipe.analysis.effort], load.image
    if stages.simulated_plans:
        found.append(("simulated plans", 5 * min(count, 128) * image))
    found.append(("allocation", SOLVING))
    if stages.shares and stages.compares:
        found.append(("granularity", 3 * min(max(1, count // 2), 64) * image))
    if stages.update:
        first = 0.0 if stages.shares else _sweep(load, len(recipe.allocation.candidates))
        found.append(("iterative update", first + (recipe.update.rounds + 1) * min(count, 128) * image))
    held = max(1, min(count // 4, 64))
    found.append(("rounding", _rounding(recipe, stages, effort, load, count, held)))
    for name, training in (
        ("block reconstruction", effort.reconstruct),
        ("tuning", effort.tune),
        ("long training", effort.longer),
    ):
        if training is not None and recipe.rounding.method != "nearest":
            # A step of one block, for every block, is a step of the whole model.
            found.append((name, training.steps * training.batch_size * (1 + 2 * BACKWARD) * image))
    return found


def peak_bytes(load: Load) -> float:
    """Return about how much memory a run needs on the machine that measures."""
    return LIBRARIES + CUDA * load.gpu + MODELS * load.parameters + IMAGE_BATCH * load.activations / load.blocks


def _weight_costs(effort: Effort, load: Load, widths: int, count: int) -> tuple[float, float]:
    """Return the seconds to round the candidates, and those to measure them."""
    half = max(1, count // 2)
    rounding = 1.5 * half * load.image + _sweep(load, widths)
    images = min(half, effort.cost_images)
    if effort.costs == "directional":
        return rounding, images * (BACKWARD + widths / 4) * load.image
    # Two widths near the budget, one of them on half of the images, from the block of the layer on.
    return rounding, images * load.layers * min(widths, 1.5) / 2 * load.image


def _sweep(load: Load, widths: int) -> float:
    """Return the seconds to round all layers by GPTQ to several widths."""
    columns = GRAPHED_COLUMN * load.columns if load.gpu else COLUMN * load.columns + ROUNDED * load.weights * widths
    return load.seconds(load.solve * widths) + columns


def _rounding(recipe: Recipe, stages: Stages, effort: Effort, load: Load, count: int, held: int) -> float:
    if recipe.rounding.method == "nearest" or effort.ladder is None:
        nearest = ROUNDED * load.weights
        if not stages.moments:
            return nearest
        # GPTQ and nearest rounding are compared on images. The update has rounded by GPTQ what it looked at.
        return nearest + 2 * min(count, 128) * load.image + (0.0 if stages.update else _sweep(load, 1))
    # Most comparisons are decided on some of the images.
    tried = 0.55 * (len(effort.ladder.dampings) + 1 + effort.ladder.bias_correction)
    passes = 4 * min(count - held, 128) + held * load.layers * tried / 2
    return passes * load.image + _sweep(load, len(effort.ladder.dampings))
