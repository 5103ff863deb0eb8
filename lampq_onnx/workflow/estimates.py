"""What a run will take: its stages in order, with a rough time and the memory it needs at most.

Factors on the time of a pass are those of a ViT-Ti and a ViT-S on two threads of an Intel Xeon with AVX-512 VNNI, where
not said otherwise (`python -m tools.bench.scale stages --clock cpu`).
"""

from __future__ import annotations

import math

from lampq_onnx.artifacts.plan import FIXED_BITS
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.stages import Stages
from lampq_onnx.evaluation.checks import PROFILED_RUNS
from lampq_onnx.evaluation.measure import FIDELITY_IMAGES, LAYER_IMAGES
from lampq_onnx.evaluation.output_errors import ERROR_IMAGES
from lampq_onnx.frontend.equalization.strengths import SCREEN_IMAGES
from lampq_onnx.frontend.equalized import IMAGES as EQUALIZATION_IMAGES
from lampq_onnx.frontend.equalized import compares_options
from lampq_onnx.frontend.measuring.analysis import RANGE_IMAGES
from lampq_onnx.frontend.measuring.costs import batch_of_halves, measured_widths
from lampq_onnx.frontend.measuring.samples import HELD_OUT_SHARE
from lampq_onnx.frontend.plan_scores import RECONSTRUCTION_IMAGES
from lampq_onnx.frontend.rounding.effort import EFFORTS, Effort
from lampq_onnx.graph.recognition import PlannedStage
from lampq_onnx.running.load import Load
from lampq_onnx.runtime.fidelity import LAYERS_AT_ONCE
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

SEEN = 0.4
"""Part of the images that a swap of the update is measured on: most look worse on the first of them."""

SWAPPED = 0.03
"""Seconds for each layer that a GPU waits for Python while the update tries other widths."""

ROUNDED = 7e-8
"""Seconds that a processor takes to round a weight to one width, besides the products of GPTQ."""

NEAREST = 3.2e-8
"""Seconds that a processor takes to round a weight to nearest, its grid included."""

UPLOAD = 6e-10
"""Seconds to bring the codes of a weight to a GPU, which the shares of channels do for 3 widths in batches of 16."""

PACKING = 3.7e-8
"""Seconds to convert a weight and to write it."""

GRAPH = 0.4
"""Seconds to convert the graph around the weights."""

PLAIN = 2.0
"""Time of a pass through the quantized file without optimizations, over that of float."""

SOLVING = 1.0
"""Seconds of the integer program, most of them to import the solver."""

LINKED = 35
"""Passes that take as long as finding the places of equalization, which are tried out one by one."""

COMPARED = 8
"""Passes that take as long as comparing the options of equalization on an image."""

PREDICTED = 8
"""Passes that take as long as a closed form of all options on an image."""

FITTED = 5.5e-7
"""Seconds that a processor takes to fit the grids of all options of equalization to a weight."""

COSTED = 1.15
"""Time of a pass with another weight in one layer, its comparison included, over that of a pass."""

RANGED = 11
"""Passes that take as long as the errors of all ranges on an image."""

OPENED, UNPACKED = 0.03, 0.08
"""Seconds to open a layer alone in the runtime; the same if it unpacks its weight."""

WHOLE, PLAIN_WHOLE = 5.5e-8, 1.2e-8
"""Seconds for each weight to open the float file and the quantized one; and the latter without optimizations."""

MARKED = 6.6e-8
"""Seconds for each weight to write and open both files with the outputs of all layers."""

ANSWERED = 2.0
"""Time of both files on an image, over that of a pass."""

SIMULATED = 1.5
"""Time of the simulation from the numbers of the file, over that of a pass."""

ERRORS = 2.0
"""Time to compare the outputs of all layers of both files on an image, over that of a pass."""


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
        found.append(("reconstruction errors", 4 * min(count, RECONSTRUCTION_IMAGES) * load.image))
    found.append(("conversion", GRAPH + PACKING * load.weights))
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
    opened = 2 if stages.layer_errors else 1  # for the latency, and for the profile
    compared = min(images, FIDELITY_IMAGES)
    opening = OPENED if recipe.allocation.only_width == FIXED_BITS else UNPACKED
    found = [
        ("simulation", (reading + SIMULATED * load.host) * compared),
        ("validation", reading * images + (ANSWERED * images + PLAIN * compared) * load.host + PACKING * load.weights),
        (
            "fidelity",
            (opening + PLAIN_WHOLE * load.weights / LAYERS_AT_ONCE) * load.layers + 12 * LAYER_IMAGES * load.host,
        ),
        ("latency", 1.5 * runs * recipe.output.latency_batch * single + opened * WHOLE * load.weights),
    ]
    if stages.layer_errors:
        errors = 1.0 + MARKED * load.weights + ERRORS * ERROR_IMAGES * load.host
        found.append(("output errors", errors))
    return tuple(PlannedStage(name, seconds) for name, seconds in found)


def measuring_stages(recipe: Recipe, stages: Stages, load: Load, count: int) -> list[tuple[str, float]]:
    """List the stages up to the sensitivities by the names that they have while they run, with their seconds."""
    effort, widths = EFFORTS[recipe.analysis.effort], len(recipe.allocation.candidates)
    held, asked, image = max(1, min(count // 4, 64)), stages.measurements, load.image
    found: list[tuple[str, float]] = []
    if stages.equalization:
        found.append(("equalization", _equalization(recipe, load, min(count, EQUALIZATION_IMAGES))))
        found.append(("export", AGAIN))
    found.append(("ranges", (min(count, RANGE_IMAGES) + held * (BACKWARD + RANGED)) * image))
    if "trace" in asked:
        found.append(("traces", min(count, 128) * (BACKWARD + 1) * image))
    if "weight_error" in asked:
        found.append(("weight errors", load.seconds(60.0 * widths * load.weights)))
    if "nuclear_norm" in asked:
        found.append(("nuclear norms", 8 * 10 * image))
    if "alpha" in asked:
        found.append(("alpha", 4 * recipe.analysis.alpha_samples * min(count, 32) * image))
    if "weight_cost" in asked:
        rounding, passes = _weight_costs(recipe, effort, load, count)
        if recipe.rounding.method == "gptq":
            found.append(("cost candidates", rounding))
        found.append(("costs", passes))
    if stages.input_costs in ("measured", "grouped"):
        passes = load.layers if stages.input_costs == "measured" else load.blocks
        # Where all inputs of a block together cost too much, each is measured alone.
        found.append(("input costs", 1.8 * passes / 2 * min(held, 32) * image))
    if stages.moments:
        found.append(("input moments", 2.4 * count * image))
    if stages.shares:
        images = min(count, 128)
        upload = UPLOAD * load.weights * 3 * images / 16 if load.gpu else 0.0
        found.append(("channel shares", images * (2 * BACKWARD + 3) * image + upload + _sweep(load, widths)))
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
        waiting = SWAPPED * load.layers if load.gpu else 0.0
        passes = (SEEN * recipe.update.rounds + 1) * min(count, 128)
        found.append(("iterative update", first + waiting + passes * image))
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


def _equalization(recipe: Recipe, load: Load, count: int) -> float:
    judged = max(1, count // HELD_OUT_SHARE)
    passes = LINKED + count + PREDICTED * judged
    fitted = FITTED * load.weights / 3  # the closed form of the options alone
    if compares_options(recipe.allocation.bits, recipe.allocation.activation_bits):
        passes = LINKED + count + PREDICTED * min(judged, SCREEN_IMAGES) + COMPARED * judged
        fitted = FITTED * load.weights
    return passes * load.image + (WAIT * load.layers if load.gpu else fitted)


def _weight_costs(recipe: Recipe, effort: Effort, load: Load, count: int) -> tuple[float, float]:
    """Return the seconds to round the candidates, and those to measure them."""
    half, candidates = max(1, count // 2), recipe.allocation.candidates
    rounding = 1.5 * half * load.image + _sweep(load, len(candidates))
    images = min(half, effort.cost_images)
    if effort.costs == "directional":
        return rounding, images * (BACKWARD + len(candidates) / 4) * load.image
    # The widest of the measured widths sees all batches, the others half of them, from the block of the layer on.
    batches = math.ceil(images / batch_of_halves(images))
    others = len(measured_widths(candidates, recipe.allocation.bits)) - 1
    settings = load.layers * (1 + others * math.ceil(batches / 2) / batches)
    return rounding, COSTED * images * settings * _part_behind(load) * load.image


def _part_behind(load: Load) -> float:
    """Return the part of a pass from the block of a layer on, on average over the layers."""
    return (load.blocks + 1) / (2 * load.blocks)


def _sweep(load: Load, widths: int) -> float:
    """Return the seconds to round all layers by GPTQ to several widths."""
    columns = GRAPHED_COLUMN * load.columns if load.gpu else COLUMN * load.columns + ROUNDED * load.weights * widths
    return load.seconds(load.solve * widths) + columns


def _rounding(recipe: Recipe, stages: Stages, effort: Effort, load: Load, count: int, held: int) -> float:
    if recipe.rounding.method == "nearest" or effort.ladder is None:
        nearest = NEAREST * load.weights
        if not stages.moments:
            return nearest
        # GPTQ and nearest rounding are compared on images. The update has rounded by GPTQ what it looked at.
        return nearest + 2 * min(count, 128) * load.image + (0.0 if stages.update else _sweep(load, 1))
    # Most comparisons are decided on some of the images.
    tried = 0.55 * (len(effort.ladder.dampings) + 1 + effort.ladder.bias_correction)
    passes = 4 * min(count - held, 128) + held * load.layers * tried / 2
    return passes * load.image + _sweep(load, len(effort.ladder.dampings))
