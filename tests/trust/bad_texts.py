"""Plans, sensitivities, recipes and rounded weights that are cut, mistyped or do not fit."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors.numpy

from tests.trust.case import OUT, Case, Good

FC1 = "blocks.0.mlp.fc1"


def cases(good: Good) -> Iterator[Case]:
    yield from _any_json(good)
    yield from _plans(good)
    yield from _sensitivities(good)
    yield from _recipes(good)
    yield from _weights(good)
    yield from _reports(good)


def _any_json(good: Good) -> Iterator[Case]:
    text = good.plan.read_bytes()
    contents = {
        "empty": b"",
        "binary": bytes(range(256)),
        "utf-16": text.decode().encode("utf-16"),
        "null": b"null",
        "list": b"[]",
        "number": b"3",
        "deep": b"[" * 100_000,
        "deep-objects": b'{"layers":' * 50_000,
        "nan": text.replace(b'"budget": 3.0', b'"budget": NaN'),
        "infinity": text.replace(b'"budget": 3.0', b'"budget": Infinity'),
        "huge-number": text.replace(b'"budget": 3.0', b'"budget": ' + b"9" * 5000),
        "trailing": text + b"}",
        "comment": b"// a plan\n" + text,
        "key-twice": text.replace(b'"budget": 3.0', b'"budget": 3.0, "budget": 4.0'),
        "surrogate": text.replace(b'"tiny"', b'"\\ud800"'),
        **{f"cut-{i}": text[: len(text) * i // 8] for i in range(1, 8)},
    }
    for what, content in contents.items():
        path = good.new(f"{what}.json")
        path.write_bytes(content)
        yield Case(f"plan-{what}", good.convert(plan=path), (f"{what}.json",))
    pipe = good.new("pipe.json")
    os.mkfifo(pipe)
    yield Case("plan-pipe", good.convert(plan=pipe), ("pipe.json",))
    loop = good.new("loop.json")
    loop.symlink_to(loop)
    yield Case("plan-link-to-itself", good.convert(plan=loop), ("loop.json",))
    yield Case("plan-folder", good.convert(plan=good.folder), (str(good.folder),))
    sparse = good.new("sparse.json")
    with sparse.open("wb") as stream:
        stream.truncate(2**40)
    yield Case("plan-of-a-terabyte", good.convert(plan=sparse), ("sparse.json",))


def _plans(good: Good) -> Iterator[Case]:
    def variant(what: str, *says: str, top: dict[str, Any] | None = None, **changes: Any) -> Case:
        data = json.loads(good.plan.read_text())
        data["layers"][FC1].update(changes)
        data.update(top or {})
        path = good.new(f"{what}.json")
        path.write_text(json.dumps(data))
        return Case(f"plan-{what}", good.convert(plan=path), says)

    for bits in (0, -1, 9, 16, 33, 2**70, 3.5, "3", True, None, [3]):
        yield variant(f"weight-bits-{bits}", "weight_bits", FC1, weight_bits=bits)
    for bits in (0, 1, 9, 15, 64, "8", False):
        yield variant(f"activation-bits-{bits}", "activation_bits", FC1, activation_bits=bits)
    yield variant("float-weights-only", "32 weight_bits", weight_bits=32)
    yield variant("parameters-0", "parameters", parameters=0)
    yield variant("parameters-of-another-model", FC1, "another model", parameters=7)
    yield variant("range-reversed", "activation_range", activation_range={"low": 1.0, "high": -1.0})
    yield variant("range-too-wide", "activation_range", activation_range={"low": -1e300, "high": 1e300})
    yield variant("range-half", "activation_range", activation_range={"low": -1.0})
    yield variant("range-text", "activation_range", activation_range="wide")
    yield variant("range-missing", "activation_range", FC1, activation_range=None)
    yield variant("unknown-key", "color", color="red")
    yield variant("unknown-layer", "blocks.9.mlp.fc1", top={"layers": {"blocks.9.mlp.fc1": _LAYER}})
    yield variant("layer-like-a-path", "../../x", top={"layers": {"../../x": _LAYER}})
    yield variant("layer-like-markup", "[red]", top={"layers": {"[red]boom[/]": _LAYER}})
    yield variant("layer-unnamed", "layer", top={"layers": {"": _LAYER}})
    yield variant("no-layers", "layers", top={"layers": {}})
    yield variant("layers-list", "layers", top={"layers": []})
    yield variant("other-format", "format", top={"format": "lampq-onnx/report"})
    yield variant("other-version", "version", top={"version": 2})
    yield variant("budget-negative", "budget", top={"budget": -3})


_LAYER = {"weight_bits": 3, "activation_bits": 8, "activation_range": {"low": -1.0, "high": 1.0}}


def _sensitivities(good: Good) -> Iterator[Case]:
    def variant(
        what: str, *says: str, top: dict[str, Any] | None = None, metric: str | None = None, **changes: Any
    ) -> Case:
        data = json.loads(good.sensitivity.read_text())
        data["layers"][1].update(changes)
        data.update(top or {})
        path = good.new(f"{what}.json")
        path.write_text(json.dumps(data))
        words = ("allocate", path, "--bits", "3", "-o", OUT)
        return Case(f"sensitivity-{what}", words if metric is None else (*words, "--metric", metric), says)

    yield variant("trace-negative", "trace", trace=-1.0)
    yield variant("trace-huge", top={"alpha": {"qkv": 1e308, "proj": 1e308, "fc1": 1e308, "fc2": 1e308}}, trace=1e308)
    yield variant("parameters-0", "parameters", parameters=0)
    yield variant("shape-of-three", "shape", shape=[1, 2, 3])
    yield variant("shape-negative", "shape", shape=[-8, 8])
    yield variant("shape-of-other-size", "shape", shape=[8, 9])
    yield variant("name-twice", "two layers", FC1, name=FC1)
    yield variant("no-layers", "layers", top={"layers": []})
    yield variant("alpha-missing", "alpha", metric="lampq", top={"alpha": {}})
    alpha = {"qkv": -1, "proj": 1, "fc1": 1, "fc2": 1}
    yield variant("alpha-negative", "cost", "negative", metric="lampq", top={"alpha": alpha})
    yield variant("is-a-plan", "plan", top={"format": "lampq-onnx/plan"})
    words = ("allocate", good.sensitivity, "-o", OUT)
    yield Case("allocate-infeasible", (*words, "--bits", "1"), ("1",), code=1)
    yield Case("allocate-nan", (*words, "--bits", "nan"), ("bits",), code=2)
    yield Case("allocate-metric", (*words, "--metric", "magic"), ("metric",), code=2)
    yield Case("allocate-unmeasured", (*words, "--metric", "kl"), ("no weight cost",), code=1)
    yield Case("allocate-candidates", (*words, "--candidates", "8-2"), ("8-2",), code=2)
    yield Case(
        "allocate-file-for-folder", ("allocate", good.sensitivity, "-o", good.plan / "x" / "p.json"), ("plan",), code=2
    )


def _recipes(good: Good) -> Iterator[Case]:
    contents = {
        "empty": (b"", 2),
        "binary": (bytes(range(256)), 1),
        "cut": (b'[model]\nname = "digi', 1),
        "utf-16": ('[model]\nname = "digits"\n'.encode("utf-16"), 1),
        "deep": (b'[model]\nname = "digits"\n[images]\nmean = ' + b"[" * 50_000, 1),
        "deep-keys": (b"a." * 50_000 + b"a = 1", 1),
        "key-twice": (b'[model]\nname = "digits"\nname = "digits"\n', 1),
        "unknown-table": (b'[model]\nname = "digits"\n[modle]\nname = "x"\n', 2),
        "unknown-key": (b'[model]\nname = "digits"\n[allocation]\nbitz = 3\n', 2),
        "table-as-value": (b'model = "digits"\n', 2),
        "bits-of-text": (b'[model]\nname = "digits"\n[allocation]\nbits = "three"\n', 2),
        "bits-nan": (b'[model]\nname = "digits"\n[allocation]\nbits = nan\n', 2),
        "bits-huge": (b'[model]\nname = "digits"\n[allocation]\nbits = 1e400\n', 2),
        "candidates": (b'[model]\nname = "digits"\n[allocation]\ncandidates = [9]\n', 2),
        "seed-huge": (b'[model]\nname = "digits"\n[images]\nseed = 99999999999999999999999\n', 2),
        "integer-of-a-million-digits": (b'[model]\nname = "digits"\n[images]\nseed = ' + b"9" * 10**6, 1),
        "date": (b'[model]\nname = "digits"\n[images]\nseed = 2024-01-01\n', 2),
        "list-of-tables": (b'[[model]]\nname = "digits"\n', 2),
        "path-null": (b'[model]\nname = "digits"\ncheckpoint = "a\\u0000b.pth"\n', 2),
        "effort": (b'[model]\nname = "digits"\n[analysis]\neffort = "heroic"\n', 2),
        "model-number": (b"[model]\nname = 3\n", 2),
        "no-model": (b"[allocation]\nbits = 3\n", 2),
        "packing": (b'[model]\nname = "digits"\n[output]\npacking = "zip"\n', 2),
        "plan-in-its-place": (good.plan.read_bytes(), 1),
    }
    for what, (content, code) in contents.items():
        path = good.new(f"{what}.toml")
        path.write_bytes(content)
        yield Case(f"recipe-{what}", ("quantize", "--recipe", path, "--output", OUT), code=code)
    pipe = good.new("pipe.toml")
    os.mkfifo(pipe)
    yield Case("recipe-pipe", ("quantize", "--recipe", pipe, "--output", OUT), ("pipe.toml",))
    gone = good.new("gone.toml")
    yield Case("recipe-missing", ("quantize", "--recipe", gone, "--output", OUT), ("gone.toml",))


def _weights(good: Good) -> Iterator[Case]:
    data = good.weights.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    contents = {
        "empty": b"",
        "cut-in-length": data[:5],
        "cut-in-header": data[: length // 2],
        "cut-in-data": data[:-3],
        "header-of-exabytes": struct.pack("<Q", 2**60) + data[8:],
        "header-not-json": data[:8] + b"x" * length + data[8 + length :],
        "longer": data + b"tail",
        "zip": good.images.read_bytes(),
        "onnx": good.float.read_bytes(),
    }
    for what, content in contents.items():
        path = good.new(f"{what}.safetensors")
        path.write_bytes(content)
        yield Case(f"weights-{what}", good.convert(None, None, "--weights", path), (path.name,))
    header = json.loads(data[8 : 8 + length])["__metadata__"]
    tensors = safetensors.numpy.load(data)

    def variant(what: str, metadata: dict[str, str] | None = None, **changes: Any) -> Case:
        changed = {**tensors, **{f"{FC1}.{key}": value for key, value in changes.items()}}
        changed = {key: value for key, value in changed.items() if value is not None}
        path = good.new(f"{what}.safetensors")
        path.write_bytes(safetensors.numpy.save(changed, metadata=header if metadata is None else metadata))
        return Case(f"weights-{what}", good.convert(None, None, "--weights", path), (FC1,) if changes else (path.name,))

    codes, scale = tensors[f"{FC1}.codes"], tensors[f"{FC1}.scale"]
    layers = json.loads(header["layers"])
    yield variant("no-header", metadata={})
    yield variant("no-layers", metadata={"format": header["format"]})
    yield variant("layers-not-json", metadata={**header, "layers": "{"})
    yield variant("layers-list", metadata={**header, "layers": "[]"})
    yield variant("bits-text", metadata={**header, "layers": json.dumps({**layers, FC1: {"bits": "x", "grid": "?"}})})
    yield variant("codes-too-large", codes=np.full_like(codes, 255))
    yield variant("codes-float", codes=codes.astype(np.float32))
    yield variant("codes-transposed", codes=np.ascontiguousarray(codes.T))
    yield variant("codes-missing", codes=None)
    yield variant("codes-of-another-layer", codes=np.ascontiguousarray(codes[::-1, ::-1]) ^ 7)
    yield variant("scale-nan", scale=np.full_like(scale, np.nan))
    yield variant("scale-zero", scale=np.zeros_like(scale))
    yield variant("scale-negative", scale=-scale)
    yield variant("scale-short", scale=scale[:-1])
    yield variant("bias-nan", bias=np.full_like(scale, np.nan))


def _reports(good: Good) -> Iterator[Case]:
    contents = {
        "empty": b"",
        "null": b"null",
        "plan": good.plan.read_bytes(),
        "cut": b'{"format": "lampq-onnx/report", "version": 1, "model": "ti',
        "deep": b'{"layers":' * 50_000,
        "binary": bytes(range(256)),
    }
    for what, content in contents.items():
        path = good.new(f"{what}.json")
        path.write_bytes(content)
        yield Case(f"report-{what}", ("report", path, "-o", OUT), (f"{what}.json",))
    yield Case("report-folder-without", ("report", good.new("gone"), "-o", OUT), ("gone",))
