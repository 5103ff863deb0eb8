"""Files of the artifacts: strict, versioned, with messages that name the key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from lampq_onnx.artifacts import BitPlan, LayerPlan
from lampq_onnx.disk.files import require_writable, staging, write_atomic
from lampq_onnx.errors import LampqError


def plan() -> BitPlan:
    layers = {
        "a": LayerPlan(weight_bits=2, activation_bits=8, parameters=300),
        "b": LayerPlan(weight_bits=6, activation_bits=8, parameters=100),
        "head": LayerPlan(weight_bits=8, activation_bits=8, parameters=50, fixed=True),
    }
    return BitPlan(budget=3.0, layers=layers)


def test_averages_count_the_budgets_layers() -> None:
    assert plan().weight_average() == (2 * 300 + 6 * 100) / 400
    assert plan().weight_average_unweighted() == 4.0
    assert plan().with_weight_bits({"a": 3}).layers["a"].weight_bits == 3
    assert plan().layers["a"].weight_bits == 2
    unknown = BitPlan(layers={"a": LayerPlan(weight_bits=4, activation_bits=8)})
    assert unknown.weight_average() is None


def test_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan().save(path)
    assert BitPlan.load(path) == plan()
    assert path.read_text().endswith("}\n")
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight_bits": 9}, ["layers.a.weight_bits", "1, 2, 3"]),
        ({"activation_bits": 9}, ["layers.a.activation_bits", "not 9"]),
        ({"weight_bits": 32}, ["32 weight_bits stays in float"]),
        ({"weight_bit": 4}, ["layers.a.weight_bit"]),
        ({"parameters": 0}, ["layers.a.parameters"]),
        ({"activation_range": {"low": "x", "high": 1}}, ["activation_range.low"]),
    ],
)
def test_bad_layers_are_named(tmp_path: Path, change: dict[str, object], words: list[str]) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"layers": {"a": {"weight_bits": 4, "activation_bits": 8} | change}}))
    with pytest.raises(LampqError, match=r"plan\.json is not a valid BitPlan") as caught:
        BitPlan.load(path)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"layers": {}}', '{"layers": {"a": NaN}}', '{"version": 2}', "[" * 100_000]
)
def test_bad_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(LampqError, match=r"plan\.json"):
        BitPlan.load(path)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(LampqError, match="cannot read"):
        BitPlan.load(tmp_path / "gone.json")
    with pytest.raises(LampqError, match="cannot read"):
        BitPlan.load(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LampqError, match="cannot read"):
        BitPlan.load(tmp_path / "binary")


def test_plans_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError):
        plan().layers["a"].weight_bits = 3  # type: ignore[misc]


def test_staging_is_all_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("old")

    def fail() -> None:
        with staging(tmp_path, ["kept"]) as stage:
            (stage / "kept").write_text("new")
            raise RuntimeError("late")

    with pytest.raises(RuntimeError, match="late"):
        fail()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("kept", "old")]
    with staging(tmp_path, ["kept"]) as stage:
        (stage / "kept").write_text("new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("kept", "new")]


def test_atomic_writes_and_unwritable_places(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep" / "file", b"1")
    assert (tmp_path / "deep" / "file").read_bytes() == b"1"
    with pytest.raises(LampqError, match="cannot write to the output folder"):
        require_writable(tmp_path / "deep" / "file" / "below")


def test_a_late_failure_puts_the_old_files_back(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "c").mkdir()

    def fail() -> None:
        with staging(tmp_path, ["a", "b"]) as stage:
            for name in "abc":  # c is not announced, and a folder stands in its way
                (stage / name).write_text("new")

    with pytest.raises(OSError, match="directory"):
        fail()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "c"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_in_the_way_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(LampqError, match=r"model\.onnx: a folder has that name"), staging(tmp_path, ["model.onnx"]):
        pytest.fail("the block must not run")
    with pytest.raises(LampqError, match="a folder has that name"):
        write_atomic(tmp_path / "model.onnx", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
