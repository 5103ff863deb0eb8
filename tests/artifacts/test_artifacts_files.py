"""Every kind of file: it comes back as it was, and what it does not know is refused with the place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.artifacts.not_done import NotDone
from lampq_onnx.artifacts.plan import ACTIVATION_BITS, FLOAT_BITS, WEIGHT_BITS
from lampq_onnx.artifacts.sweep import Sweep
from lampq_onnx.disk.records import Artifact, Record
from lampq_onnx.errors import LampqError
from tests.html.reports import report, sensitivities
from tests.html.test_html_sweep import POINTS, sweep
from tools.bench.budgets import made_up_layer, made_up_table


def full_plan() -> BitPlan:
    """A plan with a value for every key."""
    layer = LayerPlan(
        weight_bits=3, activation_bits=16, type="fc1", parameters=12, fixed=True, input_elements=7, storage="exact",
        activation_range=ActivationRange(low=-0.1, high=1 / 3, method="mse"), sketch=(0.1, 1e-30, -3.0),
    )  # fmt: skip
    return BitPlan(
        model="m", metric="kl", budget=3.25, activation_budget=8.0, promised_bytes=9, promised_ms=0.1,
        promised_agreement=0.9, layers={"fc1": layer, "a.b": LayerPlan(weight_bits=32, activation_bits=32)},
    )  # fmt: skip


LAYERS = [made_up_layer("qkv", "qkv", (192, 64), 17 * 64, np.random.default_rng(0))]
REFUSAL = NotDone(step="FuseGelu", purpose="one operator", reason="it differs", where=("a", "b"))
FILES: dict[str, Artifact] = {
    "plan": full_plan(),
    "sensitivities": sensitivities(),
    "report": report(not_done=(REFUSAL,)),
    "point": POINTS[0],
    "sweep": sweep(picked="kl-3", request="min size"),
    "latency": made_up_table(LAYERS),
}


def records(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Record]]:
    """Every record inside a value, with the keys that lead to it in the file."""
    if isinstance(value, Record):
        yield path, value
        for name, field in type(value).model_fields.items():
            yield from records(getattr(value, name), (*path, field.alias or name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from records(item, (*path, str(key)))
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from records(item, (*path, i))


def at(data: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        data = data[key]
    return data


@pytest.mark.parametrize("kind", FILES)
def test_a_file_comes_back_as_it_was(kind: str, tmp_path: Path) -> None:
    artifact, path = FILES[kind], tmp_path / "file.json"
    artifact.save(path)
    again = type(artifact).load(path)
    assert again == artifact
    assert again.to_json() == path.read_text()
    assert list(json.loads(path.read_text()))[:2] == ["format", "version"]


@pytest.mark.parametrize("kind", FILES)
def test_an_unknown_key_is_refused_wherever_it_is(kind: str, tmp_path: Path) -> None:
    artifact, path = FILES[kind], tmp_path / "file.json"
    # One place for each kind of record is enough.
    places = {type(record): where for where, record in records(artifact)}
    assert len(places) > 1
    for where in places.values():
        data = json.loads(artifact.to_json())
        at(data, where)["surprise"] = 1
        path.write_text(json.dumps(data))
        with pytest.raises(LampqError) as caught:
            type(artifact).load(path)
        assert ".".join(map(str, (*where, "surprise"))) in str(caught.value)


@pytest.mark.parametrize("kind", FILES)
def test_numbers_that_are_none_are_refused(kind: str, tmp_path: Path) -> None:
    artifact, path = FILES[kind], tmp_path / "file.json"
    floats = {
        (type(record), name): (*where, name)
        for where, record in records(artifact)
        for name in type(record).model_fields
        if type(getattr(record, name)) is float
    }
    assert floats
    for where in floats.values():
        for number in (float("nan"), float("inf")):
            data = json.loads(artifact.to_json())
            at(data, where[:-1])[where[-1]] = number
            path.write_text(json.dumps(data))
            with pytest.raises(LampqError) as caught:
                type(artifact).load(path)
            assert str(where[-1]) in str(caught.value)


@pytest.mark.parametrize("kind", FILES)
def test_a_later_version_or_another_format_is_refused(kind: str, tmp_path: Path) -> None:
    artifact, path = FILES[kind], tmp_path / "file.json"
    data = json.loads(artifact.to_json())
    path.write_text(json.dumps(data | {"version": data["version"] + 1}))
    with pytest.raises(LampqError, match="version"):
        type(artifact).load(path)
    path.write_text(json.dumps(data | {"format": "lampq-onnx/other"}))
    with pytest.raises(LampqError, match=f"is not a {type(artifact).__name__}: it holds lampq-onnx/other"):
        type(artifact).load(path)
    path.write_text(artifact.to_json().replace('"version"', '"format": "x",\n  "version"', 1))
    with pytest.raises(LampqError, match="'format' appears twice"):
        type(artifact).load(path)


def test_reports_of_versions_that_knew_fewer_keys_are_read(tmp_path: Path) -> None:
    """Keys with a default may be absent."""
    path = tmp_path / "report.json"
    data = json.loads(report().to_json())
    for later in ("not_done", "passes", "details", "equalized", "limits", "notes"):
        del data[later]
    path.write_text(json.dumps(data))
    assert type(report()).load(path) == report(details=None, notes=())
    data = json.loads(sweep().to_json())
    for later in ("picked", "request", "recipe", "inputs"):
        del data[later]
    path.write_text(json.dumps(data))
    assert Sweep.load(path) == sweep()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"layers": {"a": {"weight_bits": "4", "activation_bits": 8}}}', "layers.a.weight_bits"),
        ('{"layers": {"a": {"weight_bits": 4.0, "activation_bits": 8}}}', "layers.a.weight_bits"),
        ('{"layers": {"a": {"weight_bits": true, "activation_bits": 8}}}', "layers.a.weight_bits"),
        ('{"layers": {"a": {"weight_bits": 4, "activation_bits": null}}}', "layers.a.activation_bits"),
        ('{"layers": {"a": {"weight_bits": 4, "activation_bits": 1}}}', "layers.a.activation_bits"),
        ('{"layers": {"a": 4}}', "layers.a"),
        ('{"layers": [4, 8]}', "layers"),
        ('{"layers": {}}', "layers"),
        ('{"layers": {"a": {"weight_bits": 4, "activation_bits": 8, "storage": "dense"}}}', "layers.a.storage"),
        (
            '{"layers": {"a": {"weight_bits": 4, "activation_bits": 8, "activation_range": {"low": 1, "high": 0}}}}',
            "low is 1, above high, which is 0",
        ),
        (
            '{"layers": {"a": {"weight_bits": 4, "activation_bits": 8}, "a": {"weight_bits": 2}}}',
            "'a' appears twice",
        ),
        ('{"layers": {"a": {"weight_bits": 4, "activation_bits": 8},}}', "is not valid JSON"),
        ('{"layers": {"a": {"weight_bits": 4, "activation_bits": 8}}} // by hand', "is not valid JSON"),
    ],
)
def test_mistakes_of_people_who_edit_plans(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(LampqError) as caught:
        BitPlan.load(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_plan_that_a_person_edits_keeps_everything_else(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    full_plan().save(path)
    path.write_text(path.read_text().replace('"weight_bits": 3,', '"weight_bits": 5,'))
    assert BitPlan.load(path) == full_plan().with_weight_bits({"fc1": 5})
    path.write_text(
        '{"layers": {"z": {"weight_bits": 4, "activation_bits": 8}, "a": {"activation_bits": 8, "weight_bits": 2}}}'
    )
    found = BitPlan.load(path)
    assert [(name, layer.weight_bits) for name, layer in found.layers.items()] == [("z", 4), ("a", 2)]
    assert found.metric is None


@st.composite
def plans(draw: st.DrawFn) -> BitPlan:
    """Plans with a size for every layer, of which at least one is in the budget."""
    layers = {}
    for i in range(draw(st.integers(1, 8))):
        weight = draw(st.sampled_from(WEIGHT_BITS))
        inputs = FLOAT_BITS if weight == FLOAT_BITS else draw(st.sampled_from(ACTIVATION_BITS))
        layers[f"layer{i}"] = LayerPlan(
            weight_bits=weight,
            activation_bits=inputs,
            parameters=draw(st.integers(1, 10**7)),
            input_elements=draw(st.integers(1, 10**6)),
            fixed=i > 0 and draw(st.booleans()),
        )
    return BitPlan(layers=layers)


@given(plans())
def test_averages_are_those_of_numpy(plan: BitPlan) -> None:
    counted = [layer for layer in plan.layers.values() if not layer.fixed]
    bits, sizes = ([getattr(layer, key) for layer in counted] for key in ("weight_bits", "parameters"))
    assert plan.weight_average() == pytest.approx(np.average(bits, weights=sizes))
    assert plan.weight_average_unweighted() == pytest.approx(np.mean(bits))
    assert plan.activation_average_unweighted() == pytest.approx(np.mean([a.activation_bits for a in counted]))
    rounded = [a for a in counted if a.weight_bits == FLOAT_BITS or a.activation_bits != FLOAT_BITS]
    if rounded:
        wanted = np.average([a.activation_bits for a in rounded], weights=[a.input_elements for a in rounded])
        assert plan.activation_average() == pytest.approx(wanted)
    else:
        assert plan.activation_average() is None


@given(plans())
def test_any_plan_survives_its_file(plan: BitPlan) -> None:
    assert BitPlan.model_validate_json(plan.to_json()) == plan
