"""What is found out before hours are spent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from lampq_onnx.artifacts.finding import Finding
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.data import ImageSource
from lampq_onnx.data.npz import ArrayReader
from lampq_onnx.frontend import checkup
from lampq_onnx.frontend.checkup import examine_model
from lampq_onnx.frontend.shared.batching import answers_of
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.targets import TARGETS
from lampq_onnx.workflow import doctor
from lampq_onnx.workflow.doctor import examine_environment
from tests.cli.conftest import invoke
from tests.frontend.tiny_models import SIZE, loaded, tiny_vit


def by_name(findings: object) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}  # type: ignore[attr-defined]


def test_the_model_may_be_named_in_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def examined(recipes: Sequence[Recipe], folder: Path) -> dict[str, tuple[Finding, ...]]:
        seen.extend(f"{recipe.model.name} {recipe.images.crop}" for recipe in recipes)
        return {}

    monkeypatch.setattr(doctor, "examine", examined)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[model]\nname = "digits"\n\n[images]\ncrop = 0.5\n')
    assert invoke("doctor", "--recipe", recipe)[0] == 0
    assert invoke("doctor", "vit_tiny_patch16_224", "--recipe", recipe)[0] == 0
    assert invoke("doctor")[0] == 0
    assert seen == ["digits 0.5", "vit_tiny_patch16_224 0.5"]
    code, _, err = invoke("doctor", "--crop", "0.5")
    assert (code, "no model is named to check" in err) == (2, True)


def test_this_environment_is_fit(tmp_path: Path) -> None:
    code, out, err = invoke("doctor", "--output", tmp_path / "out", "--json")
    assert code == 0, err
    found = {finding["name"]: finding for finding in json.loads(out)["environment"]}
    assert set(found) == {
        "packages", "processor", "kernels", "providers", "memory", "disk: output", "disk: temporary files",
        "disk: cache",
    }  # fmt: skip
    assert found["packages"]["status"] == found["kernels"]["status"] == "ok"
    assert not (tmp_path / "out").exists()


def test_packages_outside_their_ranges_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "0.1" if name == "onnx" else real(name))
    found = next(iter(doctor.versions()))
    assert found.status == "failure"
    assert "onnx 0.1 is not >=" in found.detail


def test_saturating_kernels_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model, *_ = doctor._extreme_product(signed=True)
    weight = onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "w")).astype(np.int64)

    def saturating(x: np.ndarray) -> np.ndarray:
        """vpmaddubsw: two products are added in 16 bits."""
        products = x[..., :, None].astype(np.int64) * weight
        pairs = products[..., 0::2, :] + products[..., 1::2, :]
        return pairs.clip(-(2**15), 2**15 - 1).sum(-2).astype(np.float32)

    monkeypatch.setattr(doctor, "open_runner", lambda *_, **__: saturating)
    found = doctor.kernels()
    assert found.status == "failure"
    assert "saturates" in found.detail


def test_both_forms_of_weights_are_the_same_product() -> None:
    signed, unsigned = (doctor._extreme_product(signed=flag) for flag in (True, False))
    np.testing.assert_array_equal(signed[2], unsigned[2])
    assert np.abs(signed[2]).max() > 2**15


def test_a_processor_without_exact_kernels_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "target_here", lambda *_: TARGETS["onnxruntime-x86-avx2"])
    found = doctor.processor()
    assert found.status == "warning"
    assert "onnxruntime-x86-vnni" in found.advice


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = by_name(examine_environment(tmp_path / "file" / "out"))
    assert found["disk: output"].status == "failure"
    assert "--output" in found["disk: output"].advice


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return loaded(tiny_vit())


def source(model: LoadedModel, *, shuffled: bool = False) -> ImageSource:
    """Photographs that the model itself labels, so that its accuracy is known."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (40, 24, 20, 3), dtype=np.uint8)
    reader = ArrayReader("images", pixels)
    bare = ImageSource.whole(reader, len(pixels), None, "images")
    prepared = np.stack(
        [model.preprocessing.normalize(model.preprocessing.crop(bare.image(i))[None])[0] for i in range(40)]
    )
    with torch.no_grad():
        labels = model.module(torch.from_numpy(prepared)).argmax(1).numpy()
    return ImageSource.whole(reader, len(pixels), (labels + shuffled) % 4, "images")


def test_a_model_that_is_reproduced(model: LoadedModel) -> None:
    found = by_name(examine_model(model, source(model)))
    assert [f.status for f in found.values()] == ["ok"] * 5, found
    assert "ONNX 100.00 %" in found["accuracy"].detail
    assert float(found["export"].detail.split()[-4]) < 1e-4


def test_labels_of_another_order_are_found(model: LoadedModel) -> None:
    found = by_name(examine_model(model, source(model, shuffled=True)))
    assert found["accuracy"].status == "failure"
    assert "chance" in found["accuracy"].detail
    assert "labels.csv" in found["accuracy"].advice


def test_a_preparation_that_is_not_timms_is_found(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkup.timm_transform
    monkeypatch.setattr(
        checkup,
        "timm_transform",
        lambda p: real(p.model_copy(update={"mean": (0.1, 0.5, 0.5), "std": (0.2, 0.5, 0.5)})),
    )
    found = by_name(examine_model(model, source(model)))
    assert found["preprocessing"].status == "failure"
    assert "--mean" in found["preprocessing"].advice


def test_an_export_that_is_not_the_model_is_found(model: LoadedModel) -> None:
    other = tiny_vit(seed=1)
    wanted, got = (
        answers_of(model.module)(np.ones((2, 3, SIZE, SIZE), np.float32)),
        answers_of(other)(np.ones((2, 3, SIZE, SIZE), np.float32)),
    )
    assert checkup._export_finding(model, wanted, got).status == "failure"
    assert checkup._export_finding(model, wanted, wanted).status == "ok"


def test_without_images_accuracy_is_said_to_be_unknown(model: LoadedModel) -> None:
    found = by_name(examine_model(model, None))
    assert found["accuracy"].status == "warning"
    assert "--validation" in found["accuracy"].advice


def test_a_provider_for_gpus_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = doctor.providers()
    assert plain.status == "ok"
    assert "CPU" in plain.detail
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(doctor.ort, "get_available_providers", lambda: both)
    found = doctor.providers()
    assert found.status == "warning"
    assert "CUDA, CPU" in found.detail
    assert "--target onnxruntime-cuda" in found.advice
    assert "CPUExecutionProvider" in found.advice
