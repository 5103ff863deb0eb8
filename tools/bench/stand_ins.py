"""Make Vision Transformers that are hard to quantize from a trained one, without changing what it computes.

    python tools/bench/stand_ins.py deit_tiny_patch16_224 deit_tiny.safetensors hard.safetensors --images calibration/

channels: some LayerNorm channels are made larger, and the next layer's weights for them smaller by the same factors.
massive:  in some middle blocks two of fc2's inputs become huge on the class token, one four times the other; their
          columns cancel. Rounding to a coarse grid loses the other inputs, and clipping destroys the cancellation.
both:     massive, then channels.

The written file loads strictly into the same timm model. Without --images, noise is used instead of images. On noise,
the class token differs less clearly from the patches than on images like those of the training.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
import torch
import typer
from safetensors.torch import save_file
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import nn

from lampq_onnx.cli.parameters import arguments_of, run_tool
from lampq_onnx.data import Preprocessing, choose, iter_batches, open_source
from lampq_onnx.disk.files import staging
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.models.loading import load_timm

Kind = Literal["channels", "massive", "both"]
Hook = Callable[[nn.Module, tuple[torch.Tensor, ...]], None]

FACTORS = (4.0, 40.0)
"""Of the enlarged LayerNorm channels, log-uniform."""
MILD_FACTORS = (2.0, 12.0)
"""The same beside massive activations, so that the massive ones stay the larger harm."""
SHARE = 0.1
"""Of a LayerNorm's channels that are enlarged."""
SIGMAS = (267.0, 67.0)
"""Massive activation of each changed block in standard deviations of its fc2 input before: as in an augreg ViT-Ti."""
PUSH = 1.0
"""Norm of one massive channel's contribution over that of the class token's residual stream."""
RATIO = 4.0
"""First massive channel over the second; a power of two, so that the two cancel to the last bit."""
MARGIN = 16.0
"""Patch tokens stay this far below zero, so that GELU of a quarter of it is still nothing."""
RIDGE = 1e-4
"""Of the least squares, relative to the mean square of the inputs."""
BATCH = 16


@dataclass(frozen=True)
class MassiveBlock:
    """What was done to one block.

    Attributes:
        first, second: hidden channels that were given up; second is RATIO times smaller now.
        height: mean activation of the first on class tokens.
        lowest: smallest pre-activation of the first on a class token that the direction was fitted to.
    """

    block: int
    first: int
    second: int
    height: float
    lowest: float


@dataclass
class Spread:
    """Streamed moments and extremes of one layer's input."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, values: torch.Tensor) -> None:
        self.count += values.numel()
        self.total += values.sum(dtype=torch.float64).item()
        self.squares += values.double().square().sum().item()
        self.low = min(self.low, values.min().item())
        self.high = max(self.high, values.max().item())

    @property
    def deviation(self) -> float:
        return math.sqrt(max(self.squares / self.count - (self.total / self.count) ** 2, 0.0))

    @property
    def range_in_deviations(self) -> float:
        return (self.high - self.low) / self.deviation if self.deviation else 0.0


@dataclass(frozen=True)
class Comparison:
    """Compares a stand-in with its original on the same images.

    Attributes:
        logit_change: relative L2.
        agreement: share of images with the same top-1.
        before, after: range of every block's fc2 input in standard deviations.
    """

    logit_change: float
    agreement: float
    before: list[float]
    after: list[float]


@dataclass
class _BlockInputs:
    """Statistics of a block from one forward pass over all images."""

    reads: list[torch.Tensor] = field(default_factory=list)
    residual: list[torch.Tensor] = field(default_factory=list)
    hidden: list[torch.Tensor] = field(default_factory=list)


def blocks_of(model: nn.Module) -> list[Block]:
    """The blocks of a plain pre-norm ViT.

    Raises:
        LampqError: the model is not one.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        raise LampqError(
            f"{type(model).__name__} has no blocks", hint="stand-ins are made of timm's plain ViT and DeiT"
        )
    for index, block in enumerate(blocks):
        plain = type(block) is Block and type(block.mlp) is Mlp and isinstance(block.mlp.norm, nn.Identity)
        linear = plain and all(isinstance(r, nn.Linear) for r in (block.attn.qkv, block.mlp.fc1, block.mlp.fc2))
        norms = plain and all(isinstance(n, nn.LayerNorm) and n.elementwise_affine for n in (block.norm1, block.norm2))
        if not linear or not norms or any(part.bias is None for part in (block.mlp.fc1, block.mlp.fc2)):
            raise LampqError(
                f"blocks.{index} is no pre-norm block of LayerNorm, attn.qkv, LayerNorm, mlp.fc1 and mlp.fc2",
                hint="stand-ins are made of timm's plain ViT and DeiT",
            )
    return list(blocks)


@torch.no_grad()
def enlarge_channels(
    model: nn.Module, seed: int, *, share: float = SHARE, factors: tuple[float, float] = FACTORS
) -> None:
    """Multiply random LayerNorm channels in every block, and divide the weights that read them. In place.

    Raises:
        LampqError: the model is no plain ViT.
    """
    random = np.random.default_rng(seed)
    for block in blocks_of(model):
        for norm, reader in ((block.norm1, block.attn.qkv), (block.norm2, block.mlp.fc1)):
            width = norm.weight.numel()
            chosen = random.choice(width, max(1, round(share * width)), replace=False)
            scale = np.ones(width)
            scale[chosen] = np.exp(random.uniform(*np.log(factors), len(chosen)))
            factor = torch.from_numpy(scale).to(norm.weight)
            norm.weight.mul_(factor)
            if norm.bias is not None:
                norm.bias.mul_(factor)
            reader.weight.div_(factor)


def make_massive(
    model: nn.Module,
    images: Sequence[torch.Tensor],
    seed: int,
    *,
    sigmas: Sequence[float] = SIGMAS,
    push: float = PUSH,
) -> list[MassiveBlock]:
    """Give consecutive middle blocks two massive activations on the class token that cancel in fc2. In place.

    The two hidden channels that contribute least make room; their mean contribution moves to the bias.

    Args:
        images: normalized batches (n, c, h, w).
        sigmas: the larger activation of each block, in standard deviations of its fc2 input.
        push: norm of what one of the two adds, over that of the class token's residual stream.

    Raises:
        UsageError: there are more sigmas than blocks, or none.
        LampqError: the model has no class token or no GELU, or the token cannot be told from the patches.
    """
    blocks = blocks_of(model)
    if not 1 <= len(sigmas) <= len(blocks):
        raise UsageError(f"the model has {len(blocks)} blocks: {len(sigmas)} cannot be changed")
    if getattr(model, "cls_token", None) is None:
        raise LampqError(f"{type(model).__name__} has no class token to carry massive activations")
    random = torch.Generator().manual_seed(seed)
    first = min(len(blocks) // 2, len(blocks) - len(sigmas))
    return [_make_massive(model, index, images, sigma, push, random) for index, sigma in enumerate(sigmas, start=first)]


@torch.no_grad()
def _make_massive(
    model: nn.Module, index: int, images: Sequence[torch.Tensor], sigma: float, push: float, random: torch.Generator
) -> MassiveBlock:
    block = blocks_of(model)[index]
    fc1, fc2 = block.mlp.fc1, block.mlp.fc2
    if not isinstance(block.mlp.act, nn.GELU):
        raise LampqError(f"blocks.{index}.mlp.act is {type(block.mlp.act).__name__}: only GELU is linear when large")
    seen = _watch(model, block, images)
    reads, hidden, residual = (torch.cat(parts) for parts in (seen.reads, seen.hidden, seen.residual))

    importance = hidden.square().mean((0, 1)).sqrt() * fc2.weight.norm(dim=0)
    pair = importance.argsort()[:2]
    fc2.bias.add_(fc2.weight[:, pair] @ hidden.mean((0, 1))[pair])

    height = sigma * hidden.std().item()
    direction, offset = _class_direction(reads)
    found = reads.double() @ direction + offset
    on_class, on_patches = found[:, 0], found[:, 1:]
    gap = (on_class.mean() - on_patches.max()).item()
    slope = (height + MARGIN) / gap if gap > 0 else math.inf
    lowest = height - slope * (on_class.mean() - on_class.min()).item()
    if not lowest > 0:
        raise LampqError(
            f"blocks.{index}: no direction tells the class token from every patch",
            hint="give more images of what the model was trained on",
        )
    row = (slope * direction).to(fc1.weight)
    bias = slope * (offset - on_class.mean().item()) + height
    layer = torch.randn(fc2.out_features, generator=random).to(fc2.weight)
    layer_scale = getattr(block.ls2, "gamma", torch.ones_like(layer))
    column = push * residual.norm(dim=1).mean() / height * layer / layer.norm() / layer_scale
    for channel, part, weight in zip(pair, (1.0, 1 / RATIO), (1.0, -RATIO), strict=True):
        fc1.weight[channel] = row * part
        fc1.bias[channel] = fc1.bias.new_tensor(bias) * part
        fc2.weight[:, channel] = column * weight
    return MassiveBlock(index, int(pair[0]), int(pair[1]), height, lowest)


def _watch(model: nn.Module, block: Block, images: Sequence[torch.Tensor]) -> _BlockInputs:
    """fc1's and fc2's inputs of all tokens, and the residual stream of the class token."""
    seen = _BlockInputs()
    hooks = [
        block.mlp.fc1.register_forward_pre_hook(lambda _, x: seen.reads.append(x[0])),
        block.mlp.fc2.register_forward_pre_hook(lambda _, x: seen.hidden.append(x[0])),
        block.norm2.register_forward_pre_hook(lambda _, x: seen.residual.append(x[0][:, 0])),
    ]
    try:
        for batch in images:
            model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _class_direction(reads: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Least squares for one on the class token and zero on the others, both weighing the same."""
    tokens = reads.shape[1]
    inputs = reads.double().flatten(0, 1)
    inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1)
    is_class = torch.arange(len(inputs)) % tokens == 0
    weights = torch.where(is_class, 1.0, 1.0 / (tokens - 1)).double()
    gram = inputs.T @ (inputs * weights[:, None])
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram, inputs.T @ (weights * is_class))
    return solution[:-1], solution[-1].item()


@torch.no_grad()
def compare(original: nn.Module, stand_in: nn.Module, images: Sequence[torch.Tensor]) -> Comparison:
    """Logits and fc2 inputs of both on the same images."""
    logits, ranges = zip(*(_logits_and_ranges(model, images) for model in (original, stand_in)), strict=True)
    change = (logits[1] - logits[0]).norm() / logits[0].norm()
    agreement = (logits[1].argmax(1) == logits[0].argmax(1)).double().mean()
    return Comparison(change.item(), agreement.item(), *ranges)


def _logits_and_ranges(model: nn.Module, images: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[float]]:
    blocks = blocks_of(model)
    spreads = [Spread() for _ in blocks]

    def watcher(spread: Spread) -> Hook:
        return lambda _, x: spread.add(x[0])

    hooks = [
        block.mlp.fc2.register_forward_pre_hook(watcher(spread)) for block, spread in zip(blocks, spreads, strict=True)
    ]
    try:
        logits = torch.cat([model(batch) for batch in images])
    finally:
        for hook in hooks:
            hook.remove()
    return logits, [spread.range_in_deviations for spread in spreads]


def stand_in_for(
    model: nn.Module,
    kind: Kind,
    images: Sequence[torch.Tensor],
    seed: int,
    *,
    sigmas: Sequence[float] = SIGMAS,
    push: float = PUSH,
    factors: tuple[float, float] | None = None,
) -> tuple[nn.Module, list[MassiveBlock]]:
    """A changed copy, and what was done to its massive blocks (none for channels).

    Args:
        factors: of the enlarged channels; FACTORS by default, MILD_FACTORS for both.
    """
    changed = copy.deepcopy(model)
    massive: list[MassiveBlock] = []
    if kind != "channels":
        massive = make_massive(changed, images, seed, sigmas=sigmas, push=push)
    if kind != "massive":
        enlarge_channels(changed, seed, factors=factors or (FACTORS if kind == "channels" else MILD_FACTORS))
    return changed, massive


def save(model: nn.Module, path: Path) -> None:
    """Write all tensors; the file appears complete or not at all."""
    if path.suffix != ".safetensors":
        raise UsageError(f"{path} must end in .safetensors")
    with staging(path.parent, [path.name]) as stage:
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, stage / path.name)


def load_images(folder: Path | None, count: int, seed: int, preprocessing: Preprocessing) -> Iterator[torch.Tensor]:
    """Normalized batches of images, or of noise without a folder."""
    if folder is None:
        random = torch.Generator().manual_seed(seed)
        shape = (preprocessing.channels, *preprocessing.size)
        yield from torch.randn(count, *shape, generator=random).split(BATCH)
        return
    source = choose(open_source(folder, num_classes=None, need_labels=False), count, seed)
    for batch in iter_batches(source, preprocessing, BATCH):
        yield torch.from_numpy(batch.images)


def main(
    model: Annotated[str, typer.Argument(help="A timm model name.")],
    checkpoint: Annotated[Path, typer.Argument(help="Weights: .safetensors, or .pth, read with weights_only.")],
    output: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    kind: Annotated[str, typer.Option(help="channels, massive or both.")] = "both",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    images: Annotated[Path | None, typer.Option(help="Images to fit and check with; default: noise.")] = None,
    count: Annotated[int, typer.Option(min=2, help="Number of images; half of them fit, the others check.")] = 96,
    sigmas: Annotated[
        str, typer.Option(help="Size of the massive activation of each changed block, in standard deviations.")
    ] = ",".join(f"{sigma:g}" for sigma in SIGMAS),
    push: Annotated[float, typer.Option(help="What a massive channel adds, relative to the residual stream.")] = PUSH,
    factors: Annotated[
        str | None,
        typer.Option(
            help="Smallest and largest factor of a channel; default: 4,40, for both 2,12.", show_default=False
        ),
    ] = None,
    model_arg: Annotated[list[str] | None, typer.Option(help="key=value for timm's constructor; repeatable.")] = None,
) -> None:
    """Make a Vision Transformer that is hard to quantize and computes what the given one does."""
    heights = _positive(sigmas, "sigmas")
    bounds = None if factors is None else _positive(factors, "factors")
    if bounds is not None and (len(bounds) != 2 or bounds[0] > bounds[1]):
        raise UsageError(f"--factors takes the smallest and the largest, not {factors!r}")
    if not push > 0:
        raise UsageError(f"--push must be positive, not {push:g}")
    loaded = load_timm(model, checkpoint=checkpoint, model_args=arguments_of(model_arg or []))
    both = torch.cat(list(load_images(images, count, seed, loaded.preprocessing)))
    if len(both) < 2:
        raise LampqError(f"{images} holds one image: one is needed to fit with and another to check")
    fitted, checked = both[: len(both) // 2].split(BATCH), both[len(both) // 2 :].split(BATCH)
    known: dict[str, Kind] = {word: word for word in get_args(Kind)}
    if kind not in known:
        raise UsageError(f"--kind must be one of {', '.join(known)}, not {kind!r}")
    changed, massive = stand_in_for(
        loaded.module,
        known[kind],
        fitted,
        seed,
        sigmas=heights,
        push=push,
        factors=None if bounds is None else (bounds[0], bounds[1]),
    )
    save(changed, output)
    reloaded = load_timm(model, checkpoint=output, model_args=arguments_of(model_arg or [])).module
    result = compare(loaded.module, reloaded, checked)
    source = "noise" if images is None else str(images)
    print(f"{output}: {kind} stand-in of {model}, seed {seed}; {len(both) // 2} other images of {source}:")
    print(f"relative logit change {result.logit_change:.2e}, top-1 agreement {result.agreement:.2%}")
    for made in massive:
        print(
            f"blocks.{made.block}.mlp.fc2: channels {made.first} and {made.second}, {made.height:.1f} and "
            f"{made.height / RATIO:.1f} on class tokens (lowest {made.lowest:.1f} and {made.lowest / RATIO:.1f})"
        )
    print("range of fc2 inputs in standard deviations, before -> after:")
    for index, (before, after) in enumerate(zip(result.before, result.after, strict=True)):
        print(f"  blocks.{index}  {before:6.1f} -> {after:6.1f}")


def _positive(text: str, name: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value < math.inf for value in values):
        raise UsageError(f"--{name} takes positive numbers with commas between, not {text!r}")
    return values


if __name__ == "__main__":
    run_tool(main)
