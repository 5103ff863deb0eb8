"""Two results side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lampq_onnx.errors import UsageError
from lampq_onnx.evaluation.two_runs import compare_runs
from tests.cli.conftest import invoke
from tests.html.reports import accuracy, details, latency, layer, report


def changed(image: str, answer: int):
    first = details().changes.images[0]
    return first.model_copy(update={"image": image, "label": 3, "float_answer": 3, "quantized_answer": answer})


def with_images(*images):
    known = details()
    changes = known.changes.model_copy(update={"images": images, "lost": 1, "won": 0, "other": 0, "names": {3: "cat"}})
    return known.model_copy(update={"changes": changes})


ONE = report(
    model="m",
    layers=(layer("a", 4), layer("b", 4), layer("c", 8)),
    details=with_images(changed("x", 4), changed("y", 5)),
)
TWO = report(
    model="m", layers=(layer("a", 4), layer("b", 3), layer("d", 8)), accuracy=accuracy(0.75, 6.0), latency=latency(2.5),
    details=with_images(changed("y", 5), changed("z", 7)),
)  # fmt: skip


def test_figures_widths_and_answers() -> None:
    found = compare_runs(ONE, TWO, ("one", "two"))
    figures = {row.name: (row.first, row.second) for row in found.figures}
    assert figures["top-1"] == ("80.00 %", "75.00 %")
    assert figures["speed, float = 1"] == ("2.00x", "2.50x")
    assert [(w.layer, w.first, w.second, w.bytes) for w in found.widths] == [
        ("b", "4/8", "3/8", -1000), ("c", "8/8", "", -8000), ("d", "", "8/8", 8000),
    ]  # fmt: skip
    assert found.layers == 4
    # y is answered alike; x is right in the second, z in the first
    assert [(a.image, a.label, a.first, a.second) for a in found.answers] == [
        ("x", "cat", "4", "cat"), ("z", "cat", "cat", "7"),
    ]  # fmt: skip
    assert found.verdict == (
        "two against one: 5.00 ± 0.28 points less top-1, the same size, 1.25 times the speed, the same KL of 0.02."
    )
    assert "within chance" in compare_runs(ONE, ONE, ("one", "one")).verdict
    assert compare_runs(ONE, ONE, ("one", "one")).answers == ()


def test_what_limits_the_comparison_is_said() -> None:
    other = TWO.model_copy(update={"model": "n", "accuracy": TWO.accuracy.model_copy(update={"samples": 20})})
    notes = compare_runs(ONE, other, ("one", "two")).notes
    assert any("m and n" in note for note in notes)
    assert any("500 and 20 images" in note for note in notes)
    different = TWO.model_copy(update={"accuracy": TWO.accuracy.model_copy(update={"metric": "AP"})})
    with pytest.raises(UsageError, match="one is scored by top-1 and two by AP"):
        compare_runs(ONE, different, ("one", "two"))


def test_the_command(tmp_path: Path) -> None:
    for name, found in (("one", ONE), ("two", TWO)):
        (tmp_path / name).mkdir()
        found.save(tmp_path / name / "report.json")
    words = ("compare", tmp_path / "one", tmp_path / "two")
    code, out, err = invoke(*words, "-o", tmp_path / "c.html")
    assert code == 0, err
    assert "3 of 4 layers have other widths" in out
    assert "two against one" in out
    assert "5.00 ± 0.28 points less" in (tmp_path / "c.html").read_text()
    code, out, _ = invoke(*words, "--json")
    assert [row["layer"] for row in json.loads(out)["widths"]] == ["b", "c", "d"]
    assert invoke(*words, "-o", tmp_path / "c.html")[0] == 2  # it exists
    code, _, err = invoke("compare", tmp_path, tmp_path / "two")
    assert code == 2
    assert "has no report.json" in err
