"""Make Vision Transformers that are hard to quantize from a trained one, without changing what it computes.

    python tools/bench/stand_ins.py deit_tiny_patch16_224 deit_tiny.safetensors hard.safetensors --images calibration/
    python tools/bench/stand_ins.py deit_tiny_patch16_224 deit_tiny.safetensors clip.safetensors --tower clip ...

channels: some LayerNorm channels are made larger, and the next layer's weights for them smaller by the same factors.
massive:  in some middle blocks two of fc2's inputs become huge on the class token, one four times the other; their
          columns cancel. Rounding to a coarse grid loses the other inputs, and clipping destroys the cancellation.
both:     massive, then channels.
harder:   massive on the class token; in the blocks before, massive on a few patch tokens; LayerNorm channels with
          heavy-tailed sizes in all blocks; and channels of each attention head mixed by matrices with singular values
          of very different size, which no scaling of channels undoes.
sinks:    a few patch tokens become massive in two channels of the residual stream and draw a quarter of the attention,
          as in CLIP and DINOv2 (--strength: how massive); then LayerNorm channels with heavy-tailed sizes. Unlike the
          others, this one changes what the model computes.

--tower makes a tower in the form of CLIP, SigLIP or DINOv2 of the model first, for channels and sinks. The printed
--model-arg are what the file needs then. The written file loads strictly into the same timm model. Without --images,
noise is used instead of images. On noise, the class token differs less clearly from the patches than on images like
those of the training.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
import typer
from safetensors.torch import save_file
from torch import nn

from lampq_onnx.cli.parameters import arguments_of, run_tool
from lampq_onnx.data import Preprocessing, choose, iter_batches, open_source
from lampq_onnx.disk.files import staging
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.models.loading import load_timm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.bench.hard.blocks import blocks_of
from tools.bench.hard.channels import CONDITION, FACTORS, TAIL, enlarge_channels, mix_heads, spread_channels
from tools.bench.hard.comparison import compare
from tools.bench.hard.massive import PUSH, RATIO, SIGMAS, MassiveBlock, make_massive
from tools.bench.hard.sinks import SECOND, STRENGTH, Sinks, make_sinks
from tools.bench.hard.towers import ARGUMENTS, Tower, tower_of

Kind = Literal["channels", "massive", "both", "harder", "sinks"]

MILD_FACTORS = (2.0, 12.0)
"""Of enlarged channels beside massive activations, so that the massive ones stay the larger harm."""
SINK_SIGMAS = (120.0, 60.0)
"""Massive activations on patch tokens, as `SIGMAS`, of the blocks before those with massive class tokens."""
BATCH = 16


def stand_in_for(
    model: nn.Module,
    kind: Kind,
    images: Sequence[torch.Tensor],
    seed: int,
    *,
    sigmas: Sequence[float] = SIGMAS,
    push: float = PUSH,
    factors: tuple[float, float] | None = None,
    condition: float = CONDITION,
    tail: float = TAIL,
    strength: float = STRENGTH,
) -> tuple[nn.Module, list[MassiveBlock | Sinks]]:
    """A changed copy, and what was done to its tokens (nothing for channels).

    Args:
        factors: of the enlarged channels; FACTORS by default, MILD_FACTORS for both.
        condition: see `mix_heads`; for harder.
        tail: see `spread_channels`; for harder and sinks.
        strength: see `make_sinks`.
    """
    changed = copy.deepcopy(model)
    if kind == "sinks":
        made = make_sinks(changed, images, seed, strength=strength, sigma=sigmas[0])
        spread_channels(changed, seed, tail=tail)
        return changed, [made]
    massive: list[MassiveBlock | Sinks] = []
    if kind == "harder":
        middle = len(blocks_of(changed)) // 2
        massive += make_massive(
            changed, images, seed, sigmas=SINK_SIGMAS, push=push, tokens="patch", first=middle - len(SINK_SIGMAS)
        )
    if kind != "channels":
        massive += make_massive(changed, images, seed, sigmas=sigmas, push=push)
    if kind == "harder":
        spread_channels(changed, seed, tail=tail)
        mix_heads(changed, seed, condition=condition)
    elif kind != "massive":
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
    kind: Annotated[str, typer.Option(help="channels, massive, both, harder or sinks.")] = "both",
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
    condition: Annotated[float, typer.Option(min=1, help="Spread of the channels of a head, for harder.")] = CONDITION,
    tail: Annotated[float, typer.Option(min=0, help="Spread of LayerNorm channels, for harder, sinks.")] = TAIL,
    strength: Annotated[
        float, typer.Option(min=1, help="Length of a sink over that of other patches, for sinks.")
    ] = STRENGTH,
    tower: Annotated[
        str | None, typer.Option(help="clip, siglip or dinov2: the model in this form first.", show_default=False)
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
    model_args = dict(arguments_of(model_arg or []))
    loaded = load_timm(model, checkpoint=checkpoint, model_args=model_args)
    both = torch.cat(list(load_images(images, count, seed, loaded.preprocessing)))
    if len(both) < 2:
        raise LampqError(f"{images} holds one image: one is needed to fit with and another to check")
    fitted, checked = both[: len(both) // 2].split(BATCH), both[len(both) // 2 :].split(BATCH)
    known: dict[str, Kind] = {word: word for word in get_args(Kind)}
    if kind not in known:
        raise UsageError(f"--kind must be one of {', '.join(known)}, not {kind!r}")
    module, own = loaded.module, model_args
    if tower is not None:
        forms: dict[str, Tower] = {word: word for word in ARGUMENTS}
        if tower not in forms or kind not in ("channels", "sinks"):
            raise UsageError("--tower is one of clip, siglip and dinov2, with --kind sinks or channels")
        module = tower_of(model, model_args, module, forms[tower], fitted, seed)
        own = {**model_args, **ARGUMENTS[forms[tower]]}
    changed, massive = stand_in_for(
        module,
        known[kind],
        fitted,
        seed,
        sigmas=heights,
        push=push,
        factors=None if bounds is None else (bounds[0], bounds[1]),
        condition=condition,
        tail=tail,
        strength=strength,
    )
    save(changed, output)
    reloaded = load_timm(model, checkpoint=output, model_args=own).module
    result = compare(loaded.module, reloaded, checked)
    source = "noise" if images is None else str(images)
    print(f"{output}: {kind} stand-in of {model}, seed {seed}; {len(both) // 2} other images of {source}:")
    print(f"relative logit change {result.logit_change:.2e}, top-1 agreement {result.agreement:.2%}")
    if tower is not None:
        print(" ".join(f"--model-arg {key}={value}" for key, value in own.items()))
    for made in massive:
        print(_said(made))
    print("range of fc2 inputs in standard deviations, before -> after:")
    for index, (before, after) in enumerate(zip(result.before, result.after, strict=True)):
        print(f"  blocks.{index}  {before:6.1f} -> {after:6.1f}")


def _said(made: MassiveBlock | Sinks) -> str:
    if isinstance(made, Sinks):
        first, second = made.channels
        return (
            f"blocks.{made.block}.mlp.fc2: channels {first} and {second} of the residual stream, {made.height:.1f} and "
            f"{SECOND * made.height:.1f} on {made.share:.1%} of the patch tokens, by a hidden unit of {made.unit:.1f}; "
            f"they draw {made.drawn:.0%} of the attention"
        )
    return (
        f"blocks.{made.block}.mlp.fc2: channels {made.first} and {made.second}, {made.height:.1f} and "
        f"{made.height / RATIO:.1f} on {made.tokens} tokens (lowest {made.lowest:.1f} and {made.lowest / RATIO:.1f})"
    )


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
