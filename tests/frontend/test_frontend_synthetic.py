"""Calibration images made from the model alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional

from lampq_onnx.config.inputs import SyntheticOptions
from lampq_onnx.config.options import AnalysisOptions
from lampq_onnx.data import CroppedImages, Preprocessing
from lampq_onnx.disk.cache import ArrayCache
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend import synthetic
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.synthetic import (
    calibration_source,
    optimized_images,
    patch_similarities,
    schedule,
    similarity_entropy,
    structure_hash,
    to_pixels,
    total_variation,
    uncropped,
)
from lampq_onnx.running.progress import Advance
from tests.frontend.tiny_models import loaded, tiny_vit

OPTIONS = SyntheticOptions(size=5, steps=6)
NOWHERE = ArrayCache(None)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAMPQ_ONNX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return loaded(tiny_vit())


@pytest.fixture(scope="module")
def layers(model: LoadedModel) -> tuple[ModelLayer, ...]:
    return projections(model.module)


def projections(module: torch.nn.Module) -> tuple[ModelLayer, ...]:
    """The layers that matter here, without an export; the last test takes them from one."""
    found = [(name, part) for name, part in module.named_modules() if name.endswith("attn.proj")]
    return tuple(ModelLayer(name, "proj", part, fixed=False) for name, part in found)


def pixels_of(
    model: LoadedModel, layers: tuple[ModelLayer, ...], options: SyntheticOptions, **more: object
) -> np.ndarray:
    source, preprocessing = calibration_source("synthetic", model, layers, options, **more)
    return np.stack([preprocessing.crop(source.image(i)) for i in range(len(source))])


def kde_entropy(values: np.ndarray, bandwidth: float) -> float:
    """By the textbook: a Gaussian at every value, -p log p integrated on a grid 100 times as dense."""
    grid = np.linspace(-1.5, 1.5, 6001)
    kernels = np.exp(-0.5 * ((grid[:, None] - values[None]) / bandwidth) ** 2)
    density = kernels.sum(1) / (len(values) * bandwidth * math.sqrt(2 * math.pi))
    terms = np.where(density > 0, density * np.log(np.where(density > 0, density, 1)), 0)
    return float(-np.trapezoid(terms, grid))


@pytest.mark.parametrize("kind", ["spread", "narrow", "equal", "ends", "two"])
def test_entropy_is_that_of_an_independent_kernel_density(kind: str) -> None:
    random = np.random.default_rng(0)
    rows = {
        "spread": random.uniform(-1, 1, (3, 400)),
        "narrow": random.normal(0.3, 0.02, (3, 400)),
        "equal": np.full((3, 7), 0.21),
        "ends": np.tile([-1.0, 1.0], (3, 5)),
        "two": random.choice([0.1, 0.8], (3, 50)) + random.normal(0, 0.01, (3, 50)),
    }[kind]
    measured = similarity_entropy(torch.from_numpy(rows).float())
    for value, row in zip(measured, rows, strict=True):
        assert float(value) == pytest.approx(kde_entropy(row, synthetic.BANDWIDTH), abs=2e-3)


def test_entropy_prefers_spread_similarities_and_has_a_gradient() -> None:
    narrow = (torch.linspace(0, 1, 50) * 0.02 + 0.5)[None].requires_grad_()
    wide = torch.linspace(-1, 1, 50)[None]
    before = similarity_entropy(narrow)
    assert float(before.detach()) < float(similarity_entropy(wide)) <= math.log(2) + 0.1
    (gradient,) = torch.autograd.grad(before.sum(), narrow)
    assert float(similarity_entropy(narrow.detach() + 0.01 * gradient / gradient.abs().max())) > float(before.detach())
    equal = torch.full((1, 9), 0.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(similarity_entropy(equal).sum(), equal)
    assert torch.isfinite(gradient).all()


def test_all_pairs_where_there_are_few() -> None:
    tokens = torch.randn(2, 1, 5, 7, generator=torch.Generator().manual_seed(0))
    found = patch_similarities(tokens, torch.Generator().manual_seed(1)).sort(1).values
    assert found.shape == (2, 10)
    for sample in range(2):
        pairs = [
            functional.cosine_similarity(tokens[sample, 0, i], tokens[sample, 0, j], dim=0)
            for i in range(5)
            for j in range(i)
        ]
        torch.testing.assert_close(found[sample], torch.stack(pairs).sort().values)


def test_similarities_stay_within_a_window_and_are_bounded_in_number() -> None:
    """Tokens of one window are equal and orthogonal to those of others, so a pair across windows would give 0."""
    tokens = torch.eye(64)[:, None].repeat(1, 49, 1)[None].repeat(2, 1, 1, 1)
    found = patch_similarities(tokens, torch.Generator().manual_seed(0))
    assert found.shape[1] <= synthetic.PAIRS
    torch.testing.assert_close(found, torch.ones_like(found))
    small = patch_similarities(torch.randn(2, 500, 4, 8), torch.Generator().manual_seed(0))
    assert 0 < small.shape[1] <= synthetic.PAIRS
    large = patch_similarities(torch.randn(2, 1, 196, 8), torch.Generator().manual_seed(0))
    assert synthetic.PAIRS * 0.9 < large.shape[1] <= synthetic.PAIRS


def test_variation_is_that_of_numpy() -> None:
    images = np.random.default_rng(0).normal(size=(3, 2, 5, 4))
    expected = (np.diff(images, axis=2) ** 2).sum((1, 2, 3)) + (np.diff(images, axis=3) ** 2).sum((1, 2, 3))
    measured = total_variation(torch.from_numpy(images))
    np.testing.assert_allclose(measured.numpy(), expected / (2 * 5 * 4))


def test_schedule_rises_and_falls() -> None:
    values = [schedule(step, 50) for step in range(50)]
    assert max(values) == pytest.approx(1, abs=0.03)
    assert values[0] < 0.3
    assert 0 < values[-1] < 0.01
    assert schedule(0, 1) == 1.0


def test_small_images_keep_their_contrast(
    model: LoadedModel, layers: tuple[ModelLayer, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def contrast() -> float:
        return float(torch.cat(list(optimized_images(model, layers, SyntheticOptions(size=8)))).std())

    kept = contrast()
    monkeypatch.setattr(synthetic, "VARIATION_SIDE", 16)  # the weight of large images, on 16 pixels
    assert contrast() < 0.5 * kept


def test_every_term_falls(model: LoadedModel, layers: tuple[ModelLayer, ...]) -> None:
    def terms(images: torch.Tensor) -> tuple[float, float, float]:
        tap = synthetic._EntropyTap(layers, 1, torch.Generator().manual_seed(9))
        with torch.no_grad(), tap.listening(len(images)) as entropies:
            logits = model.module(images)
        targets = synthetic._targets(len(images), 4, 0)
        return (
            float(functional.cross_entropy(logits, targets)),
            -float(torch.stack(entropies).mean()),
            float(total_variation(images).mean()),
        )

    def after(steps: int, **weights: float) -> tuple[float, float, float]:
        off = {"entropy_weight": 0.0, "class_weight": 0.0, "variation_weight": 0.0}
        options = SyntheticOptions(size=8, steps=steps, **(off | weights))
        return terms(torch.cat(list(optimized_images(model, layers, options))))

    start = after(1)
    assert after(30, class_weight=1.0)[0] < 0.5 * start[0]
    assert after(30, entropy_weight=1.0)[1] < start[1] - 0.05
    assert after(30, variation_weight=1.0)[2] < 0.5 * start[2]
    together = after(40, entropy_weight=1.0, class_weight=1.0, variation_weight=0.1)
    assert all(now < before for now, before in zip(together, start, strict=True))


def test_the_seed_decides(model: LoadedModel, layers: tuple[ModelLayer, ...]) -> None:
    first = pixels_of(model, layers, OPTIONS, cache=NOWHERE)
    assert first.shape == (5, 16, 16, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, pixels_of(model, layers, OPTIONS, cache=NOWHERE))
    assert not np.array_equal(first, pixels_of(model, layers, OPTIONS.model_copy(update={"seed": 1}), cache=NOWHERE))
    assert len({image.tobytes() for image in first}) == len(first)


def test_images_do_not_depend_on_their_neighbours(
    model: LoadedModel, layers: tuple[ModelLayer, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses are sums over images, so that one image's gradient is its own."""
    count = synthetic.BATCH + 3
    options = SyntheticOptions(size=count, steps=3)
    assert [len(batch) for batch in optimized_images(model, layers, options)] == [synthetic.BATCH, 3]
    both = next(optimized_images(model, layers, options))
    monkeypatch.setattr(synthetic, "_noise", lambda n, p, g, make=synthetic._noise: make(16, p, g)[:n])
    monkeypatch.setattr(synthetic, "_batch_sizes", lambda _: iter((4,)))
    alone = next(optimized_images(model, layers, options))
    torch.testing.assert_close(alone, both[:4], rtol=1e-3, atol=1e-3)


def test_pixels_reproduce_the_optimized_images(layers: tuple[ModelLayer, ...]) -> None:
    """Through the source, the crop (a no-op in spite of the model's crop_pct) and the normalization."""
    changes = {"crop_pct": 0.875, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    tiny = loaded(tiny_vit())
    model = LoadedModel(tiny.module, tiny.preprocessing.model_copy(update=changes), tiny.identity)
    own = projections(model.module)
    expected = torch.cat(list(optimized_images(model, own, OPTIONS))).numpy()
    source, preprocessing = calibration_source("synthetic", model, own, OPTIONS)
    assert source.labels is None
    assert preprocessing.crop_pct == 1.0
    assert (preprocessing.mean, preprocessing.std) == (model.preprocessing.mean, model.preprocessing.std)
    with CroppedImages(source, preprocessing) as crops:
        found = np.concatenate([batch.images for batch in crops.batches(2)])
    half_a_level = 0.5 / 255 / np.array(changes["std"]).reshape(1, 3, 1, 1)
    assert (np.abs(found - expected) <= half_a_level + 1e-5).all()


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("size", [(16, 16), (7, 13), (30, 11), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_uncropped_is_the_identity(mode: str, size: tuple[int, int], channels: int) -> None:
    preprocessing = uncropped(
        Preprocessing(
            size=size,
            crop_pct=0.9,
            crop_mode=mode,
            interpolation="bicubic",
            mean=(0.4,) * channels,
            std=(0.3,) * channels,
            channels=channels,
        )
    )
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size, channels), dtype=np.uint8)
    from lampq_onnx.data import ImageSource
    from lampq_onnx.data.npz import ArrayReader

    reader = ArrayReader("x", pixels[..., 0] if channels == 1 else pixels)
    source = ImageSource.whole(reader, 3, None, "x")
    for i in range(3):
        assert np.array_equal(preprocessing.crop(source.image(i)), pixels[i])
    assert np.array_equal(to_pixels(torch.from_numpy(preprocessing.normalize(pixels)), preprocessing), pixels)


def test_noise_is_noise_in_the_models_space(model: LoadedModel, layers: tuple[ModelLayer, ...]) -> None:
    options = SyntheticOptions(size=20)
    source, preprocessing = calibration_source("noise", model, layers, options)
    assert len(source) == 20
    pixels = np.stack([preprocessing.crop(source.image(i)) for i in range(20)])
    values = preprocessing.normalize(pixels)
    # Values beyond one standard deviation are clipped here (mean and std are 0.5): 16 % on each side.
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert (values == values.max()).mean() == pytest.approx(0.16, abs=0.01)
    again, _ = calibration_source("noise", model, layers, options)
    assert np.array_equal(np.asarray(again.image(3)), pixels[3])


class Steps:
    """A progress sink that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int | None, list[int]]] = []

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        self.told.append((name, total, []))
        yield self.told[-1][2].append


def test_a_cached_run_gives_the_same_images_without_the_model(
    model: LoadedModel, layers: tuple[ModelLayer, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, sink = ArrayCache(tmp_path / "own"), Steps()
    first = pixels_of(model, layers, OPTIONS, cache=cache, progress=sink)
    assert sink.told == [("synthetic images", 6, [1, 2, 3, 4, 5, 6])]

    def never(*_: object) -> None:
        raise AssertionError("optimized again")

    monkeypatch.setattr(synthetic, "optimized_images", never)
    assert np.array_equal(first, pixels_of(model, layers, OPTIONS, cache=cache, progress=sink))
    assert sink.told[1] == ("synthetic images", 6, [6])
    for other in (OPTIONS.model_copy(update={"steps": 7}), OPTIONS.model_copy(update={"lr": 0.1})):
        with pytest.raises(AssertionError, match="again"):
            pixels_of(model, layers, other, cache=cache)
    with pytest.raises(AssertionError, match="again"):
        pixels_of(loaded(tiny_vit(seed=1)), layers, OPTIONS, cache=cache)
    with pytest.raises(AssertionError, match="again"):
        pixels_of(loaded(tiny_vit(num_heads=4)), layers, OPTIONS, cache=cache)


def test_a_damaged_cache_entry_is_made_anew(
    model: LoadedModel, layers: tuple[ModelLayer, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = pixels_of(model, layers, OPTIONS)  # the user's folder
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_bytes(entry.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(first, pixels_of(model, layers, OPTIONS))
    assert "damaged" in caplog.text
    caplog.clear()
    assert np.array_equal(first, pixels_of(model, layers, OPTIONS))
    assert not caplog.records


def test_a_cache_folder_that_cannot_be_written(
    model: LoadedModel, layers: tuple[ModelLayer, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert len(pixels_of(model, layers, OPTIONS, cache=ArrayCache(tmp_path / "file" / "cache"))) == 5
    assert "cannot be written" in caplog.text


def test_structure_tells_models_of_equal_weights_apart() -> None:
    first, second = tiny_vit(), tiny_vit(num_heads=4)
    assert [p.shape for p in first.parameters()] == [p.shape for p in second.parameters()]
    assert structure_hash(first) == structure_hash(tiny_vit(seed=1))
    assert structure_hash(first) != structure_hash(second)


def test_without_attention_outputs_or_classes(
    model: LoadedModel, layers: tuple[ModelLayer, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        images = next(optimized_images(model, (), OPTIONS))
    assert "no attention outputs" in caplog.text
    assert torch.isfinite(images).all()
    featureless = LoadedModel(model.module, model.preprocessing, model.identity.model_copy(update={"num_classes": 0}))
    assert torch.isfinite(next(optimized_images(featureless, layers, OPTIONS))).all()


def test_gray_images_and_windows() -> None:
    gray = loaded(tiny_vit(in_chans=1))
    source, preprocessing = calibration_source("synthetic", gray, projections(gray.module), OPTIONS)
    assert source.image(0).mode == "L"
    assert preprocessing.crop(source.image(0)).shape == (16, 16, 1)
    torch.manual_seed(0)
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32, patch_size=4, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2), num_classes=4,
    ).eval().requires_grad_(False)  # fmt: skip
    layers = projections(swin)
    assert len(layers) == 4
    preprocessing = gray.preprocessing.model_copy(
        update={"size": (32, 32), "channels": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    )
    windowed = LoadedModel(swin, preprocessing, gray.identity)
    assert pixels_of(windowed, layers, OPTIONS, cache=NOWHERE).shape == (5, 32, 32, 3)


def test_the_model_is_left_as_it_was(model: LoadedModel, layers: tuple[ModelLayer, ...]) -> None:
    next(optimized_images(model, layers, OPTIONS))
    assert not any(module._forward_pre_hooks for module in model.module.modules())
    assert all(p.grad is None and not p.requires_grad for p in model.module.parameters())


def test_nan_is_an_error(layers: tuple[ModelLayer, ...]) -> None:
    broken = loaded(tiny_vit())
    with torch.no_grad():
        broken.module.head.bias[0] = float("nan")
    with pytest.raises(LampqError, match="became NaN"):
        next(optimized_images(broken, layers, OPTIONS))


def test_the_front_end_takes_them(model: LoadedModel) -> None:
    front = Frontend(model)
    source, preprocessing = calibration_source(
        "synthetic", model, front.exported.layers, SyntheticOptions(size=8, steps=3)
    )
    with CroppedImages(source, preprocessing) as crops:
        front.equalize(crops, AnalysisOptions(), seed=0)
        sensitivities = front.analyze(crops.slice(0, 8), AnalysisOptions(), seed=0)
    assert sensitivities.calibration_images == 8
    assert sensitivities.calibration_made
    # What such images do not show is neither clipped nor scaled away.
    assert front.equalized == {}
    assert {layer.activation_ranges[8].method for layer in sensitivities.layers} == {"minmax"}
