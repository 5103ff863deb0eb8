"""`list`: every name that an option takes, from the tables in the code."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from lampq_onnx.allocation.metrics import METRICS
from lampq_onnx.artifacts.task import TASKS, TaskName
from lampq_onnx.cli import names as names_module
from lampq_onnx.cli.names import ALL_TABLES
from lampq_onnx.config.names import EFFORTS
from lampq_onnx.config.options import EffortName
from lampq_onnx.config.output import PackingName
from lampq_onnx.disk.cache import FOLDER_VARIABLE
from lampq_onnx.frontend.rounding.effort import EFFORTS as SETTINGS
from lampq_onnx.serving.table import FORMATS
from lampq_onnx.targets import BY_CPU, PACKINGS, RUNNERS, TARGETS
from lampq_onnx.targets import Packing as TargetPacking
from tests.cli.conftest import invoke

WANTED = {
    "metrics": tuple(METRICS),
    "targets": (*BY_CPU, *TARGETS),
    "runtimes": ("auto", *RUNNERS),
    "formats": tuple(FORMATS),
    "tasks": ("auto", *get_args(TaskName)),
    "efforts": get_args(EffortName),
    "packings": get_args(PackingName),
}


def rows_of(*words: str) -> list[dict[str, str]]:
    code, out, err = invoke("list", *words, "--json")
    assert code == 0, err
    found: list[dict[str, str]] = json.loads(out)
    return found


@pytest.mark.parametrize("what", WANTED)
def test_every_name_with_what_it_is(what: str) -> None:
    rows = rows_of(what)
    assert tuple(row["name"] for row in rows) == WANTED[what]
    for row in rows:
        said = row.get("what it is", row.get("runs in", ""))
        assert len(said.split()) >= 2, row
    text = invoke("list", what)[1]
    assert all(name in text for name in WANTED[what])


def test_tables_have_the_names_of_their_types() -> None:
    assert tuple(TASKS) == get_args(TaskName)
    assert tuple(EFFORTS) == tuple(SETTINGS) == get_args(EffortName)
    assert tuple(PACKINGS) == get_args(TargetPacking)
    assert set(ALL_TABLES) == set(WANTED)


@pytest.mark.parametrize("name", TARGETS)
def test_targets_say_what_they_run(name: str) -> None:
    (row,) = rows_of("targets", name)
    target = TARGETS[name]
    assert row["storages"].split(", ") == list(target.packings)
    pairs = {
        (weight, activation)
        for part in row["weight bits / input bits"].split("; ")
        for weight in spread(part.partition(" / ")[0])
        for activation in spread(part.partition(" / ")[2].partition(" (")[0])
    }
    every = range(1, 33)
    assert pairs == {(w, a) for w in every for a in every if (w, a) != (32, 32) and target.kernel(w, a)}


def spread(text: str) -> list[int]:
    """Widths of words such as "1-8" and "16, float"."""
    found = []
    for word in text.split(", "):
        low, dash, high = word.partition("-")
        found += [32] if word == "float" else list(range(int(low), int(high if dash else low) + 1))
    return found


def test_without_a_name_it_says_what_there_is() -> None:
    assert [row["name"] for row in rows_of()] == [*ALL_TABLES, "models"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("metricks",), "did you mean metrics?"),
        (("zzz",), "known: metrics, targets"),
        (("metrics", "no*"), "none of the metrics fits 'no*'"),
    ],
)
def test_what_there_is_not(words: tuple[str, ...], said: str) -> None:
    code, _, err = invoke("list", *words)
    assert code == 2
    assert said in err


def test_models_are_those_of_timm_and_kept(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    code, out, _ = invoke("list", "models", "deit_*")
    assert (code, out.split()) == (0, sorted(timm.list_models("deit_*")))
    assert invoke("list", "models")[1].split()[0] == "digits"
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr("lampq_onnx.frontend.models.construction.timm_names", lambda: ["another"])
    assert names_module.model_names() == timm.list_models()
