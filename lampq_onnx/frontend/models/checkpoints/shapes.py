"""Derives the arguments of a model from the shapes in its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def guess_vit_arguments(state: Mapping[str, torch.Tensor]) -> dict[str, int | float]:
    """Guess the arguments of timm's VisionTransformer from the shapes of a checkpoint; empty for other architectures.

    img_size is left out if the number of positions does not fit a square image.
    """
    patch, position = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    fc1, head = state.get("blocks.0.mlp.fc1.weight"), state.get("head.weight")
    if patch is None or position is None or fc1 is None or (patch.ndim, position.ndim, fc1.ndim) != (4, 3, 2):
        return {}
    width, side = int(patch.shape[0]), int(patch.shape[2])
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    grid = round(_patches(state) ** 0.5)
    guess: dict[str, int | float] = {"img_size": grid * side} if grid**2 == _patches(state) else {}
    guess |= {
        "patch_size": side,
        "in_chans": int(patch.shape[1]),
        "embed_dim": width,
        "depth": depth,
        "mlp_ratio": fc1.shape[0] / width,
    }
    if head is not None and head.ndim == 2:
        guess["num_classes"] = int(head.shape[0])
    return guess


def described_arguments(state: Mapping[str, torch.Tensor]) -> str:
    """The guessed arguments as typed on the command line; empty for other architectures."""
    guess = guess_vit_arguments(state)
    words = [f"--model-arg {key}={value}" for key, value in guess.items()]
    if guess and "img_size" not in guess:
        side, patches = int(guess["patch_size"]), _patches(state)
        words.insert(0, f"--model-arg img_size=[height,width] with height/{side} * width/{side} = {patches}")
    return " ".join(words)


def _patches(state: Mapping[str, torch.Tensor]) -> int:
    """Number of positions that belong to patches, without class tokens and registers."""
    registers = state.get("reg_token")
    others = sum(key in state for key in ("cls_token", "dist_token"))
    others += 0 if registers is None or registers.ndim != 3 else int(registers.shape[1])
    return int(state["pos_embed"].shape[1]) - others
