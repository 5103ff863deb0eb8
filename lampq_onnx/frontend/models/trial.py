"""A first pass through a model: checks that it accepts images and returns outputs that later stages can use."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError, first_line, is_out_of_memory
from lampq_onnx.frontend.shared.changes import relative_change

OPEN_SIZES = ("spatial_shapes", "grid_thw", "image_grid_thw", "pixel_position_ids")
"""Arguments that say how many patches each image has, in models that take images of any aspect ratio."""

SAME = 1e-3
"""Largest relative difference (L2) between answers to one image that float rounding explains."""

SMALL = 1e-6
"""Norm of answers from which on a difference counts."""

INPUT_HINT = (
    "its forward must take one batch of normalized images (n, channels, height, width); wrap it in a module whose "
    "forward creates all other inputs"
)
OUTPUT_HINT = "wrap it in a module whose forward returns one tensor, its first dimension counting the images"


def noise(preprocessing: Preprocessing, module: torch.nn.Module, count: int = 2) -> torch.Tensor:
    """Seeded random images, float32 (count, channels, height, width), on the model's device."""
    shape = (count, preprocessing.channels, *preprocessing.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return images.to(next(module.parameters()).device)


@torch.no_grad()
def require_answer(module: torch.nn.Module, name: str, preprocessing: Preprocessing) -> torch.Tensor:
    """Run the model on two images and check its answer, float32 (2, ...).

    Raises:
        LampqError: the model needs other inputs than images, fails on them, does not return one float tensor with one
            row per image, answers differently to the same image, or has no gradient.
    """
    require_one_input(module, name)
    images = noise(preprocessing, module)
    answer = _run(module, name, images)
    alone = _differentiable(module, name, images[:1])
    if not torch.isfinite(answer).all():
        raise LampqError(
            f"{name} answers NaN or infinity for normalized random images",
            hint="check its weights, and that its forward takes normalized images",
        )
    if _differ(module, answer[:1], alone):
        if _differ(module, answer, _run(module, name, images)):
            raise LampqError(
                f"{name} answers differently to the same images in two passes",
                hint="remove randomness from its forward, such as dropout that ignores evaluation mode",
            )
        raise LampqError(
            f"{name} answers differently to an image alone and in a batch with another one",
            hint="give its batch norms running statistics; each image must be computed on its own",
        )
    return answer


def require_fixed_patches(module: torch.nn.Module, name: str) -> None:
    """Refuse a module that takes the patches of images of any aspect ratio, with their number for each image.

    Raises:
        LampqError: names the argument that says so.
    """
    open_sizes = [key for key in inspect.signature(module.forward).parameters if key in OPEN_SIZES]
    if open_sizes:
        raise LampqError(
            f"{name} takes patches of images of any size: {open_sizes[0]} says how many each image has, so that its "
            "layers see another number of tokens for each image",
            hint="use a model for one size of images (of SigLIP 2, one without naflex in its name)",
        )


def require_one_input(module: torch.nn.Module, name: str) -> None:
    """Refuse a module that cannot be called with images alone.

    Raises:
        LampqError: names the arguments that it needs.
    """
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # compiled code has no signature; the first pass shows the problem
        return
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    if len(needed) > 1 or not takes:
        raise LampqError(f"{name} takes {', '.join(needed) or 'no arguments'}, not images alone", hint=INPUT_HINT)


def _differentiable(module: torch.nn.Module, name: str, images: torch.Tensor) -> torch.Tensor:
    """The answer, which must depend differentiably on a parameter."""
    frozen = [value for value in module.parameters() if not value.requires_grad and value.is_floating_point()]
    try:
        with torch.enable_grad(), saved_tensors_hooks(_emptied, _emptied):
            for value in frozen:
                value.requires_grad_()
            answer = _run(module, name, images)
    finally:
        for value in frozen:
            value.requires_grad_(False)
    if not answer.requires_grad:
        raise LampqError(
            f"the outputs of {name} have no gradient, but sensitivities are measured with it",
            hint="its forward must be differentiable: without torch.no_grad or detach",
        )
    return answer.detach()


def _emptied(values: torch.Tensor) -> torch.Tensor:
    """Keep no numbers for a backward pass that is not made."""
    return values.new_empty(0)


def _run(module: torch.nn.Module, name: str, images: torch.Tensor) -> torch.Tensor:
    shape = tuple(images.shape)
    try:
        answer: Any = module(images.clone())
    except Exception as error:  # a model can raise anything
        if is_out_of_memory(error):
            raise
        raise LampqError(
            f"{name} does not take images {shape}: {type(error).__name__}: {first_line(error)}", hint=INPUT_HINT
        ) from error
    if not isinstance(answer, torch.Tensor):
        raise LampqError(
            f"{name} answers {_describe(answer)} for {len(images)} images, not one tensor", hint=OUTPUT_HINT
        )
    if not answer.is_floating_point() or answer.ndim < 2 or len(answer) != len(images):
        kind = f"{str(answer.dtype).removeprefix('torch.')} {tuple(answer.shape)}"
        raise LampqError(
            f"{name} answers {kind} for {len(images)} images, not one row of float class scores each", hint=OUTPUT_HINT
        )
    return answer.float()


def _describe(answer: Any) -> str:
    if isinstance(answer, Mapping):
        return f"a {type(answer).__name__} with {', '.join(map(str, answer)) or 'nothing'}"
    if isinstance(answer, tuple | list):
        return f"a {type(answer).__name__} of {len(answer)}"
    return "nothing" if answer is None else f"a {type(answer).__name__}"


def _differ(module: torch.nn.Module, one: torch.Tensor, other: torch.Tensor) -> bool:
    return relative_change(module, one, other) > SAME and bool((one - other).norm() > SAME * SMALL)
