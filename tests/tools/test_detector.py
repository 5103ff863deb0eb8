"""Scenes, the detector's training, and the whole line on a detector that has not learned anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from typer.testing import CliRunner

import lampq_onnx
from lampq_onnx.artifacts import BitPlan, Report
from lampq_onnx.config.inputs import ImageOptions, ModelOptions
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.data import Preprocessing, iter_batches, open_source
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.frontend.opening import load_model
from lampq_onnx.workflow.validate_files import validate
from tools import scenes, train_detector
from tools.bench import detection
from tools.detector import data, judge, loss
from tools.detector.conditional_detr import conditional_detr
from tools.detector.learner import Learner
from tools.detector.rt_detr import rt_detr
from tools.detector.step import FilledItems, Gradients

pytest.importorskip("transformers")
pytest.importorskip("pycocotools")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector after six steps."""
    folder = tmp_path_factory.mktemp("detector")
    patch = pytest.MonkeyPatch()
    patch.setattr(
        "sys.argv",
        ["", "--output", str(folder), "--scenes", "8", "--validation", "2", "--steps", "6", "--batch", "4",
         "--hidden", "24", "--depth", "2", "--workers", "1"],
    )  # fmt: skip
    train_detector.main()
    patch.undo()
    return folder


def test_boxes_hold_the_drawn_shapes_exactly() -> None:
    for index in range(12):
        found = scenes.scene(5, index)
        assert np.array_equal(found.image, scenes.scene(5, index).image)
        assert 1 <= len(found.boxes) <= scenes.MOST_OBJECTS
        assert (found.boxes[:, :2] >= 0).all()
        assert (found.boxes[:, :2] + found.boxes[:, 2:] <= scenes.SIZE).all()
    outline = scenes._outline("star", 20.0, 0.4)
    low, high = scenes._extent("star", outline, 20.0)
    y, x = np.mgrid[-25:25:400j, -25:25:400j]
    inside = scenes._polygon_distance(x, y, outline) < 0
    assert [x[inside].min(), y[inside].min()] == pytest.approx(low, abs=0.3)
    assert [x[inside].max(), y[inside].max()] == pytest.approx(high, abs=0.3)


def test_symmetries_move_boxes_with_their_pixels() -> None:
    pixels = np.zeros((16, scenes.SIZE, scenes.SIZE, 3), np.uint8)
    pixels[:, 10:30, 40:100] = 255
    boxes = torch.tensor([70, 20, 60, 20]).expand(16, 1, 4) / scenes.SIZE
    targets = data.Targets(boxes, torch.zeros(16, 1, dtype=torch.int64))
    images, moved = data.augmented(torch.from_numpy(pixels), targets, torch.Generator().manual_seed(0))
    for image, (cx, cy, w, h) in zip(images, (moved.boxes[:, 0] * scenes.SIZE).tolist(), strict=True):
        rows, columns = np.nonzero((image[..., 0] != image[64, 64, 0]).numpy())
        assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == pytest.approx(
            [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], abs=1e-3
        )
    assert len({tuple(box) for box in moved.boxes[:, 0].tolist()}) > 4


def test_queries_take_the_nearest_objects_first() -> None:
    boxes = torch.tensor([[[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1], [0.5, 0.5, 0.1, 0.1]]])
    targets = data.Targets(boxes[:, [2, 0]], torch.tensor([[1, 0]]))
    assert loss.assign(torch.full((1, 3, 7), 1 / 7), boxes, targets).tolist() == [[2, 0]]


@pytest.mark.parametrize(("build", "hidden"), [(conditional_detr, 32), (rt_detr, 48)])
def test_the_first_gradients_are_of_an_ordinary_size(build: Callable[[int, int], Learner], hidden: int) -> None:
    """Queries that are all zero made a DETR's first LayerNorm multiply gradients by hundreds."""
    torch.manual_seed(0)
    images, targets = data.to_tensors(data.draw(0, 2, 1), torch.device("cpu"))
    model = build(hidden, 1).train()
    value = Gradients(model, half=False, recorded=False)(images, targets)
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    assert 0.1 * float(value) < norm < 10 * float(value)


def test_items_are_set_where_they_are() -> None:
    plain, filled = torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64)
    for values, mode in ((plain, nullcontext()), (filled, FilledItems())):
        with mode:
            values[1, 0], values[2] = 7, 5
            values[values > 6] = 9
    assert torch.equal(plain, filled)


def test_the_training_script_counts_precision_as_coco_does(trained: Path) -> None:
    drawn = [scenes.scene(3, i) for i in range(4)]
    perfect = max(len(each.boxes) for each in drawn)
    scores, classes = np.zeros((4, perfect)), np.zeros((4, perfect), np.int64)
    boxes = np.zeros((4, perfect, 4))
    for i, each in enumerate(drawn):
        count = len(each.boxes)
        scores[i, :count], classes[i, :count] = 1, each.classes
        boxes[i, :count] = np.concatenate([each.boxes[:, :2], each.boxes[:, :2] + each.boxes[:, 2:]], 1) / scenes.SIZE
    shown = {int(kind) for each in drawn for kind in each.classes}
    found = judge.average_precision((scores, classes, boxes), drawn, 0.5)
    assert found == pytest.approx(len(shown) / len(scenes.CLASSES))
    record = json.loads((trained / "training.json").read_text())
    assert record["step"] == 6


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes that are wider than the model's input."""
    return scenes.write_coco(tmp_path_factory.mktemp("scenes"), 2, 6, width=160, height=128)


SETTINGS = {"bits": 4, "effort": "fast", "latency_runs": 1, "calibration_size": 4}


@pytest.fixture(scope="module")
def quantized(trained: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """The files of a whole run."""
    folder = tmp_path_factory.mktemp("quantized") / "a"
    settings = {"calibration": images, "validation": images, "baseline": ("uniform", "lampq"), **SETTINGS}
    return folder, lampq_onnx.quantize(str(trained), folder, **settings)


def test_the_table_has_a_row_for_each_model(
    trained: Path, images: Path, quantized: tuple[Path, Report], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []

    def quantize(*_: object, **options: object) -> Report:
        asked.append(options)
        return quantized[1]

    monkeypatch.setattr(lampq_onnx, "quantize", quantize)
    arguments = [str(trained), f"--calibration={images}", f"--validation={images}", "--bits=8,4"]
    done = CliRunner().invoke(detection.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = [line.split("|")[1:-1] for line in done.output.splitlines() if line.startswith("| ")]
    assert [cells[1].strip() for cells in rows] == ["W/A", "8/8", "4/8"]
    assert {len(cells) for cells in rows} == {len(detection.COLUMNS)}
    cells = dict(zip(detection.COLUMNS, (cell.strip() for cell in rows[1]), strict=True))
    accuracy = quantized[1].accuracy
    assert cells["AP"] == f"{100 * accuracy.quantized.top1:.1f} %"
    for column in ("kl, layers", "kl, groups"):
        assert cells[column].startswith(f"{100 * (accuracy.float_.top1 - accuracy.quantized.top1):.2f} ")
    assert [options.get("bits") for options in asked] == [8, 4, None]
    limit = f"{quantized[1].size.quantized_bytes} B"
    assert (asked[2]["granularity"], asked[2]["max_size"], asked[2]["metric"]) == ("group", limit, "kl")


def test_rows_of_several_jobs_leave_out_the_speed_and_a_failed_one_is_named(
    quantized: tuple[Path, Report], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def quantize(*_: object, bits: float = 0, **__: object) -> Report:
        if bits == 6:
            raise LampqError("no such width")
        return quantized[1]

    monkeypatch.setattr(lampq_onnx, "quantize", quantize)
    # Threads in place of processes, which would not see the replacement.
    monkeypatch.setattr(detection, "ProcessPoolExecutor", lambda jobs, **_: ThreadPoolExecutor(jobs))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    rows = [
        detection.Row("models/x", bits, Path(str(bits)), {"activation_bits": 8, "threads": 1}, timed=False)
        for bits in (8.0, 6.0)
    ]
    assert detection.print_table(rows, jobs=2) == 1
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert "speed" not in head
    fine, failed = sorted(lines, key=len, reverse=True)
    assert fine.count("|") == head.count("|")
    assert failed == "| x | 6 | failed: no such width |"


def test_a_detectors_file_has_two_outputs_and_is_a_model_itself(
    trained: Path, images: Path, quantized: tuple[Path, Report], tmp_path: Path
) -> None:
    folder, report = quantized
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["logits", "pred_boxes"]
    loaded = load_model(ModelOptions(name=str(trained)), ImageOptions())
    batch = next(iter_batches(open_source(images, num_classes=None, need_labels=False), loaded.preprocessing, 6))
    logits, boxes = ort.InferenceSession(folder / "float.onnx", providers=["CPUExecutionProvider"]).run(
        None, {"input": batch.images}
    )
    with torch.no_grad():
        wanted = loaded.module(torch.from_numpy(batch.images)).numpy()
    np.testing.assert_allclose(np.concatenate([logits, boxes], -1), wanted, atol=2e-5)
    assert report.accuracy.metric == "AP"
    assert Report.load(folder / "report.json").accuracy == report.accuracy
    again = validate(
        folder / "model.onnx", folder / "float.onnx", ImageOptions(validation=images),
        OutputOptions(latency_runs=1),
    )  # fmt: skip
    assert again.accuracy == report.accuracy
    # The float file by itself: same task, same precision.
    other = lampq_onnx.quantize(
        str(folder / "float.onnx"), tmp_path / "b", calibration=images, validation=images, **SETTINGS
    )
    assert other.accuracy.float_.top1 == pytest.approx(report.accuracy.float_.top1, abs=1e-6)
    assert other.accuracy.scores.keys() == report.accuracy.scores.keys()


def test_the_promised_size_counts_the_names_of_layers(quantized: tuple[Path, Report]) -> None:
    folder, report = quantized
    promised = BitPlan.load(folder / "plan.json").promised_bytes
    assert promised is not None
    assert 0.95 * promised <= report.size.quantized_bytes <= promised


def test_tasks_that_do_not_fit_are_refused(trained: Path, images: Path) -> None:
    with pytest.raises(UsageError, match="not those of segmentation"):
        load_model(ModelOptions(name=str(trained), task="segmentation"), ImageOptions())
    with pytest.raises(UsageError, match="takes no checkpoint"):
        load_model(ModelOptions(name=str(trained), checkpoint=Path("x.safetensors")), ImageOptions())
    with pytest.raises(UsageError, match="name on the hub"):
        load_model(ModelOptions(name="transformers:hustvl/yolos-tiny"), ImageOptions())


def test_a_missing_detector_says_how_to_train_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LampqError) as error:
        detection.require_model("models/scenes")
    assert detection.TRAINING in (error.value.hint or "")


def test_preprocessing_is_that_of_the_processor(trained: Path) -> None:
    found = load_model(ModelOptions(name=str(trained)), ImageOptions()).preprocessing
    assert found == Preprocessing(
        size=(128, 128), crop_pct=1, crop_mode="squash", interpolation="bilinear", mean=data.MEAN,
        std=data.STD, channels=3,
    )  # fmt: skip
