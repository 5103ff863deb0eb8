"""What a recipe asks for, refused before anything is loaded if it cannot be had. Needs no PyTorch."""

from __future__ import annotations

import difflib

from lampq_onnx.artifacts.gates import GateLimits
from lampq_onnx.config.inputs import DIGITS
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.errors import UsageError
from lampq_onnx.targets import ATTENTION_OPSET, Target
from lampq_onnx.workflow.inputs import Given
from lampq_onnx.workflow.planning import options_for, require_inputs, with_granularity


def recipe_limits(recipe: Recipe) -> GateLimits:
    """Return the gates of `quantize`: from --gate-agreement, and from an agreement given as a budget."""
    least = max(recipe.output.gate_agreement, recipe.budgets.min_agreement or 0.0)
    return GateLimits(min_agreement=least or None)


def check_options(recipe: Recipe, target: Target) -> None:
    """Reject invalid options before anything is loaded.

    Raises:
        UsageError: an option is out of range; the target does not support the widths, the packing or a budget; or times
            were measured in another way.
        LampqError: the budget is below the smallest candidate.
    """
    check_recipe(recipe)
    check_target(recipe, target)


def recipe_for(recipe: Recipe, target: Target) -> Recipe:
    """Return the recipe with what its target leaves open, see `options_for`.

    Raises:
        UsageError: inputs are to be quantized, and the target leaves them in float.
    """
    options = options_for(recipe.allocation, target, recipe.output.packing)
    same = {
        "activation_bits": options.activation_bits,
        "candidates": options.candidates,
        "weight_bits": options.bits,
    }
    analysis = recipe.analysis.model_copy(update=same)
    return recipe.model_copy(update={"allocation": options, "analysis": analysis})


def require_images(recipe: Recipe, given: Given | None = None) -> None:
    """Refuse a run without the images that it needs.

    Raises:
        UsageError: names the missing option, and the embedded model if the model has almost its name.
    """
    missing = missing_images(recipe, given)
    if not missing:
        return
    advice = list(missing.values())
    named = given is None or given.module is None
    if named and difflib.get_close_matches(recipe.model.name, (DIGITS,), cutoff=0.8):
        advice.insert(0, f"did you mean {DIGITS}, the embedded model, which has its own images?")
    raise UsageError(" and ".join(f"no {what}" for what in missing), hint="; ".join(advice))


def missing_images(recipe: Recipe, given: Given | None = None) -> dict[str, str]:
    """Map the images that a run needs but does not name to advice; the embedded model has its own images."""
    if recipe.model.name == DIGITS and (given is None or given.module is None):
        return {}
    found = {}
    if recipe.images.validation is None and (given is None or given.validation is None):
        found["validation images"] = "give labelled images with --validation"
    if recipe.images.calibration is None and (given is None or given.calibration is None):
        found["calibration images"] = (
            "give a folder or .npz file with --calibration; 128 images are enough. Without any, "
            "--calibration synthetic makes them from the model"
        )
    return found


def check_recipe(recipe: Recipe) -> None:
    """Refuse what cannot be right before anything is loaded.

    Raises:
        UsageError: candidates that inputs cannot have.
        LampqError: an average is below the smallest candidate.
    """
    options = recipe.allocation
    options.require_widths()
    if recipe.bits_count:
        options.require_average_bits()
    if not recipe.budgets.given:
        options.require_average_input_bits()


def check_target(recipe: Recipe, target: Target) -> None:
    """Reject what the target does not support, before anything is loaded: widths, packing, form of attention, budgets.

    Raises:
        UsageError: names the nearest widths, the packings or the granularity that the target supports, or what a budget
            needs.
    """
    # First, because with another granularity the other options may be right.
    with_granularity(recipe.allocation, target, recipe.output.packing)
    target.require_widths(options_for(recipe.allocation, target, recipe.output.packing).width_pairs)
    if recipe.output.packing != "auto":
        target.require_packing(recipe.output.packing)
    if recipe.output.attention == "operator" and target.opset < ATTENTION_OPSET:
        raise UsageError(
            f"{target.name} reads at most opset {target.opset}, and the operator Attention needs {ATTENTION_OPSET}",
            hint="leave out --attention operator",
        )
    require_inputs(recipe, target)
