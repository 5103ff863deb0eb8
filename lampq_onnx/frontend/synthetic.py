"""Makes calibration images from the model alone, for users who may not use real images.

The method is PSAQ-ViT (Li et al., Patch Similarity Aware Data-Free Quantization for Vision Transformers, ECCV 2022). On
real images the patches of an attention output differ, as foreground and background do; on noise they are all alike.
Gaussian noise is therefore optimized until, in every block, the similarities of patches are widely spread, the model
sees a class drawn at random, and neighboring pixels are similar.

Differences from the published code: densities are evaluated at points as dense as the kernel is wide (there ten points
for a kernel of 0.01) and over a seeded sample of the patches; losses are means per image, so that images in a batch do
not depend on each other; there are tens of steps instead of a thousand.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from lampq_onnx.config.inputs import SyntheticOptions
from lampq_onnx.data import ImageSource, Preprocessing
from lampq_onnx.data.npz import ArrayReader
from lampq_onnx.disk.cache import ArrayCache, cache_key
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.shared.batching import BATCH, device_of
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.shared.threads import SUM_THREADS, torch_threads
from lampq_onnx.running.progress import NO_PROGRESS, Advance, ProgressSink

SyntheticName = Literal["synthetic", "noise"]

KIND = "synthetic-images-2"
"""Part of the cache keys; increase the number when the same options give other images."""

TAPPED_TYPE = "proj"
"""Type of the layer whose input is the concatenated output of the attention heads."""

BANDWIDTH = 0.05
"""Standard deviation of the Gaussian kernel of densities, and distance between the points of evaluation."""

PAIRS = 1024
"""Approximate number of similarities per image density: 45 patches. All 19,110 of DeiT cost more time than the model.
"""

ADAM_BETAS = (0.5, 0.9)
"""Betas of Adam, as in PSAQ-ViT's code."""

WARMUP = 0.1
"""Fraction of the steps in which the learning rate rises; then it falls to zero along a cosine."""

VARIATION_SIDE = 224
"""Side of the images that the weight of the variation is meant for.

The same scene on half the pixels has twice the differences between neighbors, and four times their squares: small
images would be smoothed until nothing is left.
"""

SHIFT_SHARE = 1 / 14
"""Largest random shift as a fraction of the image's side: PSAQ-ViT's 15 of 224 pixels, so that no patch border is
special.
"""

_MARGIN = 3 * BANDWIDTH
_TINY = 1e-6

_log = logging.getLogger(__name__)


def calibration_source(
    name: SyntheticName,
    loaded: LoadedModel,
    layers: Sequence[ModelLayer],
    options: SyntheticOptions,
    progress: ProgressSink = NO_PROGRESS,
    *,
    cache: ArrayCache | None = None,
) -> tuple[ImageSource, Preprocessing]:
    """Make images of the model's input size, and the preprocessing that leaves them unchanged.

    Args:
        name: "synthetic" optimizes the images, "noise" leaves them as random noise.
        loaded: the model.
        layers: its layers; those of type `proj` give the attention outputs.
        options: how many images, and how they are made.
        progress: told of every step.
        cache: stores optimized images; the user's cache by default.

    Raises:
        LampqError: the optimization produces values that are not finite.
    """
    preprocessing = uncropped(loaded.preprocessing)
    if name == "noise":
        pixels = noise_pixels(preprocessing, options)
    else:
        pixels = _cached_pixels(loaded, layers, options, progress, cache or ArrayCache.of_user())
    images = pixels[..., 0] if preprocessing.channels == 1 else pixels
    description = f"{len(images)} {name} images made from {loaded.identity.name} (seed {options.seed})"
    return ImageSource.whole(ArrayReader(name, images), len(images), None, description, made=True), preprocessing


def uncropped(preprocessing: Preprocessing) -> Preprocessing:
    """The same normalization and size, without a crop: an image of that size passes unchanged."""
    return preprocessing.override(crop_pct=1.0)


def to_pixels(images: torch.Tensor, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Inverse of `Preprocessing.normalize`: float32 (n, c, h, w) to the nearest uint8 (n, h, w, c)."""
    return preprocessing.denormalize(images.detach().cpu().numpy())


def noise_pixels(preprocessing: Preprocessing, options: SyntheticOptions) -> NDArray[np.uint8]:
    """Gaussian noise in the model's input space, where the optimization starts; uint8 (n, h, w, c)."""
    generator = torch.Generator().manual_seed(options.seed)
    return np.concatenate(
        [to_pixels(_noise(size, preprocessing, generator), preprocessing) for size in _batch_sizes(options.size)]
    )


def optimized_images(
    loaded: LoadedModel, layers: Sequence[ModelLayer], options: SyntheticOptions, advance: Advance = lambda _: None
) -> Iterator[torch.Tensor]:
    """Optimize images batch by batch, float32 (n, c, h, w) on the model's device, within the range of pixels.

    Args:
        loaded: the model.
        layers: its layers; see `calibration_source`.
        options: how many images, and how they are made.
        advance: called with the number of steps done, over all batches.

    Raises:
        LampqError: an image is not finite.
    """
    module, preprocessing = loaded.module, loaded.preprocessing
    classes = loaded.identity.num_classes if loaded.task.kind == "classification" else 1
    device = device_of(module)
    mean, std = _statistics(preprocessing, device)
    black = preprocessing.rescale_offset
    lowest, highest = (black - mean) / std, (black + 255 * preprocessing.rescale_factor - mean) / std
    generator = torch.Generator().manual_seed(options.seed)
    targets = _targets(options.size, classes, options.seed).to(device)
    resolution = (min(preprocessing.size) / VARIATION_SIDE) ** 2
    tap = _EntropyTap(layers, int(getattr(module, "num_prefix_tokens", 0)), generator)
    if not tap.layers:
        _log.warning("%s shows no attention outputs: its images follow the class alone", loaded.identity.name)
    done = steps = 0
    for size in _batch_sizes(options.size):
        images = _noise(size, preprocessing, generator).to(device).clamp_(lowest, highest).requires_grad_()
        optimizer = torch.optim.Adam([images], lr=options.lr, betas=ADAM_BETAS)
        for step in range(options.steps):
            optimizer.param_groups[0]["lr"] = options.lr * schedule(step, options.steps)
            with torch.enable_grad():
                loss = options.variation_weight * resolution * total_variation(images).sum()
                with tap.listening(size) as entropies:
                    logits = module(_shifted(images, generator))
                if classes > 1:
                    wanted = targets[done : done + size]
                    loss = loss + options.class_weight * functional.cross_entropy(logits, wanted, reduction="sum")
                if entropies:
                    loss = loss - options.entropy_weight * torch.stack(entropies).mean(0).sum()
                (images.grad,) = torch.autograd.grad(loss, images)
            optimizer.step()
            with torch.no_grad():
                images.clamp_(lowest, highest)
            steps += 1
            advance(steps)
        done += size
        if not torch.isfinite(images).all():
            raise LampqError(
                f"the synthetic images of {loaded.identity.name} became NaN",
                hint="take a lower learning rate or fewer steps, or calibrate on real images",
            )
        yield images.detach()


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rate: a linear rise, then half a cosine; never zero."""
    rise = min(1.0, (step + 1) / max(1.0, WARMUP * steps))
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def total_variation(images: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of an image's values to the neighbors below and to the right; (n,)."""
    down = (images[:, :, 1:] - images[:, :, :-1]).square().flatten(1).sum(1)
    right = (images[..., 1:] - images[..., :-1]).square().flatten(1).sum(1)
    return (down + right) / images[0].numel()


def similarity_entropy(similarities: torch.Tensor) -> torch.Tensor:
    """Differential entropy of the kernel density of cosine similarities, (n, pairs) to (n,), in nats.

    The points of evaluation extend beyond [-1, 1] by the tails of the kernel, so that no mass is lost.
    """
    count = round((2 + 2 * _MARGIN) / BANDWIDTH) + 1
    points = torch.linspace(-1 - _MARGIN, 1 + _MARGIN, count, device=similarities.device)
    distances = (points[:, None] - similarities.float()[:, None, :]) / BANDWIDTH
    density = torch.exp(-0.5 * distances.square()).mean(-1) / (BANDWIDTH * math.sqrt(2 * math.pi))
    return -(density * torch.log(density + _TINY)).sum(-1) * BANDWIDTH


def patch_similarities(tokens: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Cosine similarities between about `PAIRS` pairs of different patches in the same window.

    Args:
        tokens: (n, windows, tokens, d) with at least two tokens; one window if attention is global.
        generator: draws the windows and patches on the CPU, the same for every image.

    Returns:
        (n, pairs).
    """
    _, windows, count, _ = tokens.shape
    members = min(count, (1 + math.isqrt(1 + 8 * PAIRS)) // 2)
    places = min(windows, max(1, PAIRS * 2 // (members * (members - 1))))
    # Distinct indices make each gradient a sum of one term, which GPUs compute the same way every time.
    chosen_windows = torch.randperm(windows, generator=generator)[:places].to(tokens.device)
    chosen = torch.randperm(count, generator=generator)[:members].to(tokens.device)
    directions = functional.normalize(tokens.index_select(1, chosen_windows).index_select(2, chosen).float(), dim=-1)
    gram = directions @ directions.mT
    row, column = torch.triu_indices(members, members, offset=1, device=tokens.device)
    return gram[:, :, row, column].flatten(1)


class _EntropyTap:
    """Computes the entropies (n,) of the attention outputs in one forward pass, layer by layer.

    Layers whose attention has only one patch (the class attention of CaiT) are left out.
    """

    def __init__(self, layers: Sequence[ModelLayer], prefix: int, generator: torch.Generator) -> None:
        self.layers = [layer for layer in layers if layer.type == TAPPED_TYPE]
        self._prefix = prefix
        self._generator = generator

    @contextmanager
    def listening(self, samples: int) -> Iterator[list[torch.Tensor]]:
        """Fill the yielded list during a forward pass of ``samples`` images inside the block."""
        entropies: list[torch.Tensor] = []

        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            tokens = inputs[0].flatten(1, -2)
            tokens = tokens.reshape(samples, -1, *tokens.shape[1:])  # windows are ordered by image
            if tokens.shape[1] == 1 and tokens.shape[2] > self._prefix + 1:
                tokens = tokens[:, :, self._prefix :]
            if tokens.shape[2] > 1:
                entropies.append(similarity_entropy(patch_similarities(tokens, self._generator)))

        handles: list[Any] = []
        try:
            handles.extend(layer.module.register_forward_pre_hook(hook) for layer in self.layers)
            yield entropies
        finally:
            for handle in handles:
                handle.remove()


def _shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Roll all images by the same random distance.

    Images are not mirrored: digits and letters have a left and a right.
    """
    limits = [int(side * SHIFT_SHARE) for side in images.shape[2:]]
    shifts = [int(torch.randint(-limit, limit + 1, (), generator=generator)) for limit in limits]
    return torch.roll(images, shifts, (2, 3))


def _noise(count: int, preprocessing: Preprocessing, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(count, preprocessing.channels, *preprocessing.size, generator=generator)


def _targets(count: int, classes: int, seed: int) -> torch.Tensor:
    """Classes in random order; every class appears once before any appears twice."""
    generator = torch.Generator().manual_seed(seed)
    rounds = [torch.randperm(max(classes, 1), generator=generator) for _ in range(math.ceil(count / max(classes, 1)))]
    return torch.cat(rounds)[:count]


def _batch_sizes(count: int) -> Iterator[int]:
    return (min(BATCH, count - start) for start in range(0, count, BATCH))


def _statistics(preprocessing: Preprocessing, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (
        torch.tensor(values, device=device).reshape(1, -1, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    return mean, std


def _cached_pixels(
    loaded: LoadedModel,
    layers: Sequence[ModelLayer],
    options: SyntheticOptions,
    progress: ProgressSink,
    cache: ArrayCache,
) -> NDArray[np.uint8]:
    preprocessing = uncropped(loaded.preprocessing)
    key = cache_key(
        KIND,
        weights_sha256=loaded.identity.weights_sha256,
        options=options,
        inputs=preprocessing,
        model=loaded.identity.name,
        structure=structure_hash(loaded.module),
        layers=",".join(layer.name for layer in layers if layer.type == TAPPED_TYPE),
    )
    total = sum(1 for _ in _batch_sizes(options.size)) * options.steps
    with progress.stage("synthetic images", total) as advance:
        kept = cache.get(key)
        if kept is not None:
            advance(total)
            return kept["images"]
        with torch_threads(SUM_THREADS):
            batches = optimized_images(loaded, layers, options, advance)
            pixels = np.concatenate([to_pixels(batch, preprocessing) for batch in batches])
        cache.put(key, {"images": pixels})
    return pixels


def structure_hash(module: torch.nn.Module) -> str:
    """sha256 over the plain settings of every submodule.

    Models with equal weights can differ in their number of heads or their activations.
    """
    settings = [
        (
            name,
            type(part).__name__,
            {k: v for k, v in sorted(vars(part).items()) if isinstance(v, bool | int | float | str)},
        )
        for name, part in module.named_modules()
    ]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()
