"""The Python API: modules, loaders and arrays in the place of names and folders."""

from __future__ import annotations

import copy
import doctest
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import lampq_onnx
from lampq_onnx.data import BatchedImages
from lampq_onnx.errors import LampqError, UsageError
from tests.frontend.tiny_models import SIZE, images, tiny_vit

PACKAGE = Path(lampq_onnx.__file__).parent

PREPROCESSING = lampq_onnx.Preprocessing(
    size=(SIZE, SIZE), crop_pct=1, crop_mode="center", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3,
    channels=3,
)  # fmt: skip


class Recorder:
    """Keeps what every stage said, by its name: how many steps there are, and how many were done each time."""

    def __init__(self) -> None:
        self.totals: dict[str, int | None] = {}
        self.done: dict[str, list[int]] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        self.totals[name] = total
        self.done[name] = []
        yield self.done[name].append


class Wrapped(torch.nn.Module):
    """A module that timm does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = tiny_vit()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.vit(x)


def test_a_module_and_a_loader_are_quantized_and_left_alone(tmp_path: Path) -> None:
    data = images(24)
    loader = DataLoader(TensorDataset(torch.from_numpy(data.images), torch.from_numpy(data.labels)), batch_size=7)
    module = Wrapped()
    before = copy.deepcopy(module.state_dict())
    recorder = Recorder()
    report = lampq_onnx.quantize(
        module, tmp_path / "out", preprocessing=PREPROCESSING, calibration=loader, validation=loader, bits=4,
        rounding="nearest", rounds=2, threads=1, latency_runs=1, calibration_size=16, resume=False, figures="all",
        progress=recorder,
    )  # fmt: skip
    for name in ("equalization", "ranges", "traces", "costs", "input costs", "validation"):
        assert recorder.done[name] == sorted(recorder.done[name]), name
        assert recorder.done[name][-1] == recorder.totals[name], name
    swaps = recorder.done["iterative update"]
    assert swaps == list(range(1, len(swaps) + 1))
    assert 1 <= len(swaps) <= recorder.totals["iterative update"] == 2  # it may stop early
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert report.model == "Wrapped"
    assert report.accuracy.samples == 24
    with torch.no_grad():
        expected = (module.eval()(torch.from_numpy(data.images)).argmax(1).numpy() == data.labels).mean()
    assert report.accuracy.float_.top1 == pytest.approx(expected)
    sensitivities = lampq_onnx.Sensitivities.load(tmp_path / "out" / "sensitivity.json")
    assert sensitivities.calibration_images == 16
    assert {model_layer.name for model_layer in sensitivities.layers} == {f"vit.{name}" for name in _layers(module.vit)}
    plan = lampq_onnx.allocate(sensitivities, bits=6)
    conversion = lampq_onnx.convert(
        tmp_path / "out" / "float.onnx", plan, tmp_path / "six.onnx", packing="container", target="onnxruntime-x86-vnni"
    )
    assert conversion.nearest
    assert {layer.storage for layer in lampq_onnx.inspect(tmp_path / "six.onnx")} == {"int8"}


def _layers(module: torch.nn.Module) -> set[str]:
    return {n for n, m in module.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}


def test_a_module_has_to_say_what_its_images_go_through(tmp_path: Path) -> None:
    with pytest.raises(LampqError, match="the images of Wrapped"):
        lampq_onnx.quantize(Wrapped(), tmp_path / "out", calibration=[], validation=[])
    other = PREPROCESSING.model_copy(update={"size": (20, 20)})
    with pytest.raises(LampqError, match="does not take images"):
        lampq_onnx.analyze(Wrapped(), preprocessing=other, calibration=[])
    assert not (tmp_path / "out").exists()


def test_options_are_checked_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean latency_runs"):
        lampq_onnx.quantize("digits", tmp_path, latency_run=1)
    with pytest.raises(UsageError, match="effort"):
        lampq_onnx.quantize("digits", tmp_path, effort="heroic")  # type: ignore[arg-type]


def test_batches_are_taken_as_they_come(tmp_path: Path) -> None:
    data = images(10)
    pieces = [
        (data.images[:4], data.labels[:4]),
        (data.images[4:9], data.labels[4:9]),
        (data.images[9:], data.labels[9:]),
    ]
    with BatchedImages(iter(pieces), PREPROCESSING, most=8) as taken:
        assert len(taken) == 8
        got = list(taken.slice(1, 8).batches(3))
        np.testing.assert_array_equal(np.concatenate([b.images for b in got]), data.images[1:8])
        np.testing.assert_array_equal(np.concatenate([b.labels for b in got]), data.labels[1:8])
        again = PREPROCESSING.normalize(taken.pixels(3)[None])[0]
        inside = data.images[3].clip(-1, 1)  # what mean 0.5 and std 0.5 make of pixels
        assert np.abs(again - inside).max() <= 1 / 255 + 1e-6
        assert [b.start for b in got] == [0, 3, 6]
        first = taken.sha256()
    with BatchedImages([p[0] for p in pieces], PREPROCESSING, most=8) as bare:
        assert bare.labels is None
        assert bare.sha256() != first
    wrong = {
        "no batch": [],
        "not float32": [data.images[:2].astype(np.uint8)],
        r"\(2, 3, 8, 16\)": [data.images[:2, :, :8]],
        "NaN": [np.full_like(data.images[:1], np.nan)],
        "one class index": [(data.images[:2], data.labels[:1])],
        "others have none": [pieces[0], pieces[1][0]],
    }
    for said, batches in wrong.items():
        with pytest.raises(LampqError, match=said), BatchedImages(batches, PREPROCESSING):
            pass


@pytest.mark.parametrize(
    "path", [p for p in sorted(PACKAGE.rglob("*.py")) if ">>> " in p.read_text()], ids=lambda p: p.stem
)
def test_doctests(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0


class Depth(torch.nn.Module):
    """A depth map (n, h, w) from the patches of a small ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = tiny_vit(num_classes=0)
        self.head = torch.nn.Linear(16, 16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.head(self.vit.forward_features(images)[:, 1:]).reshape(-1, 4, 4, 4, 4)
        return torch.nn.functional.softplus(patches.permute(0, 1, 3, 2, 4).reshape(-1, 16, 16))


def test_a_depth_model_is_scored_against_maps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    images = random.normal(size=(8, 3, 16, 16)).astype(np.float32)
    truth = random.uniform(0.2, 1.5, size=(8, 16, 16))
    report = lampq_onnx.quantize(
        Depth(), output=tmp_path / "out", preprocessing=PREPROCESSING, calibration=[images],
        validation=[(images, truth)],
        bits=3, effort="fast", threads=1, latency_runs=2,
    )  # fmt: skip
    first, second = (
        onnxruntime.InferenceSession(str(tmp_path / "out" / name)).run(None, {"input": images})[0].astype(np.float64)
        for name in ("float.onnx", "model.onnx")
    )
    accuracy = report.accuracy
    right = [float((np.maximum(v / truth, truth / v) < 1.25).mean()) for v in (first, second)]
    assert accuracy.metric == "delta1"
    assert [accuracy.float_.top1, accuracy.quantized.top1] == pytest.approx(right, abs=1e-3)
    assert accuracy.relative_error == pytest.approx(np.linalg.norm(first - second) / np.linalg.norm(first), rel=1e-3)
    assert accuracy.kl == pytest.approx(((first - second) ** 2).mean() / first.var() / 2, rel=1e-2)
    assert accuracy.agreement < 1
