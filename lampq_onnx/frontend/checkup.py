"""Checks a loaded model: the exported file's answers against PyTorch's, and our image preparation against timm's."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform

from lampq_onnx.artifacts.finding import Finding
from lampq_onnx.artifacts.task import CLASSIFICATION
from lampq_onnx.data import ImageSource, Preprocessing, iter_batches
from lampq_onnx.data.decoding import planes
from lampq_onnx.disk.files import FLOAT_FILE
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.shared.batching import answers_of
from lampq_onnx.frontend.shared.changes import relative_change
from lampq_onnx.frontend.shared.loaded import LoadedModel
from lampq_onnx.graph.model_file import save_model
from lampq_onnx.runtime import Runner, open_runner
from lampq_onnx.runtime.environment import available_cores

BATCH = 32

EXPORT_BOUND = 1e-3
"""Largest relative difference of the logits; float rounding gives 1e-6 to 1e-5."""

PREPROCESSING_BOUND = 0.02
"""Largest relative difference of prepared images; rounding of single pixels gives 1e-3."""

ACCURACY_BOUND = 0.5
"""Largest difference in top-1 (percentage points) between timm's preparation and ours."""

ABOVE_CHANCE = 5.0
"""Factor over chance that the accuracy of a trained model exceeds; with shuffled labels it does not."""


def examine_model(loaded: LoadedModel, validation: ImageSource | None) -> Iterator[Finding]:
    """Check the export on random images and, with labelled images, the preparation and the accuracy.

    Args:
        loaded: the model, on the CPU.
        validation: labelled images; None skips the accuracy check.

    Yields:
        One finding per check, with what to do if the check fails.
    """
    parameters = sum(p.numel() for p in loaded.module.parameters())
    yield Finding(
        "model",
        "ok",
        f"{loaded.identity.name}: {parameters / 1e6:.1f} M parameters, {_answers(loaded)}; "
        f"images: {loaded.preprocessing.describe()}",
    )
    exported = export_model(loaded)
    layers = [layer for layer in exported.layers if not layer.fixed]
    share = sum(layer.parameters for layer in exported.layers) / max(parameters, 1)
    skipped = "" if not exported.skipped else f"; in float: {', '.join(exported.skipped)}"
    yield Finding(
        "layers",
        "ok" if share > 0.5 else "warning",
        f"{len(layers)} layers in the budget; {100 * share:.1f} % of the parameters can be quantized{skipped}",
        "" if share > 0.5 else "most of the model would stay in float, so quantization gains little",
    )
    with tempfile.TemporaryDirectory(prefix="lampq-") as folder:
        path = Path(folder, FLOAT_FILE)
        save_model(exported.model, path)
        run = open_runner(path, threads=available_cores())
        random = np.random.default_rng(0)
        shape = (4, loaded.preprocessing.channels, *loaded.preprocessing.size)
        noise = random.normal(size=shape).astype(np.float32)
        yield _export_finding(loaded, answers_of(loaded.module)(noise), run(noise))
        if validation is None:
            yield Finding("accuracy", "warning", "not measured", "give labelled images with --validation to measure it")
            return
        if loaded.task.kind != CLASSIFICATION.kind:
            yield Finding(
                "accuracy",
                "warning",
                f"not measured: the task is {loaded.task.kind}, and only classification has one answer to compare",
                "quantize and validate measure the scores of every task",
            )
            return
        yield from _examine_images(loaded, validation, run)


def _answers(loaded: LoadedModel) -> str:
    classify = loaded.task.kind == CLASSIFICATION.kind
    return f"{loaded.identity.num_classes} classes" if classify else f"task {loaded.task.kind}"


def _examine_images(loaded: LoadedModel, validation: ImageSource, run: Runner) -> Iterator[Finding]:
    """Compare prepared images with timm's, and the file's answers with the labels and with timm's."""
    assert validation.labels is not None
    preprocessing, labels = loaded.preprocessing, validation.labels
    theirs = timm_transform(preprocessing) if preprocessing.channels == 3 and preprocessing.like_timm else None
    ours_right = theirs_right = same = 0
    change = norm = 0.0
    for batch in iter_batches(validation, preprocessing, BATCH):
        own = labels[batch.start : batch.start + len(batch.images)]
        found = run(batch.images).argmax(1)
        ours_right += int((found == own).sum())
        if theirs is None:
            continue
        pictures = [validation.image(batch.start + i) for i in range(len(batch.images))]
        prepared = np.stack([np.asarray(theirs(planes(picture, 3)[0])) for picture in pictures])
        change += float(np.square(prepared - batch.images).sum())
        norm += float(np.square(batch.images).sum())
        wanted = answers_of(loaded.module)(prepared).argmax(1)
        theirs_right += int((wanted == own).sum())
        same += int((wanted == found).sum())
    count = len(validation)
    if theirs is not None:
        difference = (change / max(norm, 1e-12)) ** 0.5
        close = difference <= PREPROCESSING_BOUND
        yield Finding(
            "preprocessing",
            "ok" if close else "failure",
            f"prepared images differ from timm's by {difference:.1e}",
            "" if close else "compare --mean, --std and --crop with the values that the model was trained with",
        )
    yield _accuracy_finding(loaded, count, ours_right, theirs_right if theirs is not None else None, same)


def _accuracy_finding(loaded: LoadedModel, count: int, ours: int, theirs: int | None, same: int) -> Finding:
    top1 = ours / count
    chance = 1 / loaded.identity.num_classes
    detail = f"ONNX {100 * top1:.2f} %"
    if theirs is not None:
        detail += f", timm {100 * theirs / count:.2f} %, same answer on {100 * same / count:.2f} %"
    detail += f" (n = {count})"
    if top1 < min(ABOVE_CHANCE * chance, (1 + chance) / 2):
        return Finding(
            "accuracy",
            "failure",
            f"{detail}: hardly more than chance, {100 * chance:.2f} %",
            "check that the numbers of the labels are those of the model's classes (labels.csv: path,label), that the "
            "weights are trained, and that the preprocessing is right",
        )
    if theirs is not None and 100 * abs(ours - theirs) / count > ACCURACY_BOUND:
        return Finding(
            "accuracy",
            "failure",
            f"{detail}: more than {ACCURACY_BOUND:g} points apart",
            "the export or the preprocessing changes the model; report it with the model's name",
        )
    return Finding("accuracy", "ok", detail)


def timm_transform(preprocessing: Preprocessing) -> Callable[[Image.Image], torch.Tensor]:
    """timm.data's evaluation transform for the same settings: a PIL image to a float32 tensor (c, h, w)."""
    transform: Callable[[Image.Image], torch.Tensor] = create_transform(
        input_size=(preprocessing.channels, *preprocessing.size),
        is_training=False,
        interpolation=preprocessing.interpolation,
        mean=preprocessing.mean,
        std=preprocessing.std,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
    )
    return transform


def _export_finding(loaded: LoadedModel, wanted: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> Finding:
    error = relative_change(loaded.module, torch.from_numpy(found), torch.from_numpy(wanted))
    exact = error <= EXPORT_BOUND
    return Finding(
        "export",
        "ok" if exact else "failure",
        f"ONNX and PyTorch differ by {error:.1e} on random images",
        "" if exact else "the exported file is not the model: report it with the model's name and torch's version",
    )
