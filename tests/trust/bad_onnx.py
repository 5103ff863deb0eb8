"""ONNX files that are cut, corrupted, inconsistent or point elsewhere."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.trust.case import Case, Good, cuts

Spoil = Callable[[onnx.ModelProto], None]


def cases(good: Good) -> Iterator[Case]:
    yield from _cut(good)
    yield from _other_content(good)
    yield from _graphs(good)
    yield from _tensors(good)
    yield from _external(good)
    yield from _metadata(good)
    yield from _numbers(good)


def _cut(good: Good) -> Iterator[Case]:
    data = good.float.read_bytes()
    # 7: graph, then 1: nodes, 5: initializers, 11: inputs.
    for what, size in cuts(data, (7, 5)):
        path = good.new("cut.onnx")
        path.write_bytes(data[:size])
        yield Case(f"onnx-cut-{what}", ("inspect", path), ("cut.onnx",))


def _other_content(good: Good) -> Iterator[Case]:
    data = good.float.read_bytes()
    contents = {
        "empty": b"",
        "one-byte": b"\x08",
        "text": b"not a model\n",
        "json": good.plan.read_bytes(),
        "gzip": gzip.compress(data, mtime=0),
        "zeros": bytes(4096),
        "ones": b"\xff" * 4096,
        "archive": good.images.read_bytes(),
        "doubled-tail": data[100:] + data,
        "endless-groups": b"\x0b" * 20000,
        "deep-graphs": _deep(400),
    }
    for what, content in contents.items():
        path = good.new(f"{what}.onnx")
        path.write_bytes(content)
        yield Case(f"onnx-{what}", ("inspect", path), (f"{what}.onnx",))
    loop = good.new("loop.onnx")
    loop.symlink_to(loop)
    yield Case("onnx-link-to-itself", ("inspect", loop), ("loop.onnx",))
    pipe = good.new("pipe.onnx")
    os.mkfifo(pipe)
    yield Case("onnx-pipe", ("inspect", pipe), ("pipe.onnx",))
    yield Case("onnx-device", ("inspect", "/dev/zero"), ("/dev/zero",))
    yield Case("onnx-folder", ("inspect", good.folder), (str(good.folder),))
    yield Case("onnx-long-name", ("inspect", "x" * 5000 + ".onnx"))
    yield Case("onnx-null-in-name", ("inspect", "a\0b.onnx"), code=2)
    yield Case("onnx-plan-in-its-place", good.convert(model=good.plan), ("plan.json",))
    yield Case("onnx-quantized-again", good.convert(model=good.model), ("quantized already",))


def _deep(levels: int) -> bytes:
    """If nodes within If nodes."""
    inner = b""
    for _ in range(levels):
        attribute = b"\x32" + _length(inner)  # AttributeProto.g
        node = b"\x2a" + _length(attribute)  # NodeProto.attribute
        inner = b"\x0a" + _length(node)  # GraphProto.node
    return b"\x3a" + _length(inner)  # ModelProto.graph


def _length(data: bytes) -> bytes:
    size, prefix = len(data), b""
    while True:
        byte, size = size & 0x7F, size >> 7
        prefix += bytes([byte | (0x80 if size else 0)])
        if not size:
            return prefix + data


def _graphs(good: Good) -> Iterator[Case]:
    def node(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
        return next(n for n in model.graph.node if n.op_type == kind)

    def opset(version: int) -> Spoil:
        return lambda m: m.opset_import[0].__setattr__("version", version)

    def cycle(m: onnx.ModelProto) -> None:
        matmul, add = node(m, "MatMul"), node(m, "Add")
        matmul.input[0] = m.graph.node[-1].output[0]
        add.input[0] = matmul.output[0]

    def own_input(m: onnx.ModelProto) -> None:
        node(m, "Softmax").input[0] = node(m, "Softmax").output[0]

    def unknown_value(m: onnx.ModelProto) -> None:
        node(m, "Softmax").input[0] = "nowhere"

    def no_initializer(m: onnx.ModelProto) -> None:
        del m.graph.initializer[3]

    def no_initializers(m: onnx.ModelProto) -> None:
        del m.graph.initializer[:]

    def twice(m: onnx.ModelProto) -> None:
        m.graph.node.append(m.graph.node[-1])

    def same_output(m: onnx.ModelProto) -> None:
        m.graph.node[-1].output[0] = m.graph.node[0].output[0]

    def unknown_operator(m: onnx.ModelProto) -> None:
        node(m, "Softmax").op_type = "Softmaxx"

    def unknown_domain(m: onnx.ModelProto) -> None:
        node(m, "Softmax").domain = "nowhere.example"

    def attribute_type(m: onnx.ModelProto) -> None:
        del node(m, "Softmax").attribute[:]
        node(m, "Softmax").attribute.append(helper.make_attribute("axis", "last"))

    def unknown_attribute(m: onnx.ModelProto) -> None:
        node(m, "Softmax").attribute.append(helper.make_attribute("color", 3))

    def too_many_inputs(m: onnx.ModelProto) -> None:
        node(m, "Softmax").input.extend(["images"] * 5)

    def no_inputs_of_node(m: onnx.ModelProto) -> None:
        del node(m, "MatMul").input[:]

    def no_outputs_of_node(m: onnx.ModelProto) -> None:
        del m.graph.node[-1].output[:]

    def output_of_nothing(m: onnx.ModelProto) -> None:
        m.graph.output[0].name = "nothing"

    def shuffled(m: onnx.ModelProto) -> None:
        nodes = list(m.graph.node)
        del m.graph.node[:]
        m.graph.node.extend(nodes[::-1])

    def two_inputs(m: onnx.ModelProto) -> None:
        m.graph.input.append(m.graph.input[0])

    def clear(name: str) -> Spoil:
        return lambda m: m.graph.ClearField(name)

    spoilers: dict[str, Spoil] = {
        "opset-0": opset(0),
        "opset-negative": opset(-3),
        "opset-999": opset(999),
        "opset-missing": lambda m: m.ClearField("opset_import"),
        "opset-twice": lambda m: m.opset_import.append(helper.make_opsetid("", 3)),
        "ir-version-missing": lambda m: m.ClearField("ir_version"),
        "ir-version-999": lambda m: m.__setattr__("ir_version", 999),
        "no-nodes": clear("node"),
        "no-inputs": clear("input"),
        "no-outputs": clear("output"),
        "no-graph": lambda m: m.ClearField("graph"),
        "cycle": cycle,
        "reads-itself": own_input,
        "reads-unknown-value": unknown_value,
        "missing-initializer": no_initializer,
        "missing-initializers": no_initializers,
        "node-twice": twice,
        "output-of-two-nodes": same_output,
        "unknown-operator": unknown_operator,
        "unknown-domain": unknown_domain,
        "attribute-of-wrong-type": attribute_type,
        "unknown-attribute": unknown_attribute,
        "too-many-inputs": too_many_inputs,
        "node-without-inputs": no_inputs_of_node,
        "node-without-outputs": no_outputs_of_node,
        "output-of-nothing": output_of_nothing,
        "not-in-order": shuffled,
        "input-twice": two_inputs,
    }
    yield from _spoiled(good, spoilers)


def _tensors(good: Good) -> Iterator[Case]:
    def weight(m: onnx.ModelProto) -> onnx.TensorProto:
        return next(t for t in m.graph.initializer if t.name.endswith("fc1.weight"))

    def dims(*sizes: int) -> Spoil:
        def spoil(m: onnx.ModelProto) -> None:
            weight(m).dims[:] = sizes

        return spoil

    def typed(kind: int) -> Spoil:
        return lambda m: weight(m).__setattr__("data_type", kind)

    def raw(change: Callable[[bytes], bytes]) -> Spoil:
        def spoil(m: onnx.ModelProto) -> None:
            weight(m).raw_data = change(weight(m).raw_data)

        return spoil

    def both_fields(m: onnx.ModelProto) -> None:
        weight(m).float_data.extend([1.0] * 128)

    def wrong_field(m: onnx.ModelProto) -> None:
        weight(m).ClearField("raw_data")
        weight(m).int64_data.extend([1] * 128)

    def few_floats(m: onnx.ModelProto) -> None:
        weight(m).ClearField("raw_data")
        weight(m).float_data.extend([1.0] * 5)

    def twice(m: onnx.ModelProto) -> None:
        m.graph.initializer.append(weight(m))

    def unnamed(m: onnx.ModelProto) -> None:
        weight(m).name = ""

    spoilers: dict[str, Spoil] = {
        "dims-negative": dims(-8, 16),
        "dims-of-a-terabyte": dims(2**20, 2**18),
        "dims-overflow": dims(2**62, 2**62),
        "dims-too-small": dims(4, 4),
        "dims-too-large": dims(16, 16),
        "dims-zero": dims(0, 16),
        "type-undefined": typed(0),
        "type-unknown": typed(9999),
        "type-double": typed(TensorProto.DOUBLE),
        "type-string": typed(TensorProto.STRING),
        "data-missing": raw(lambda _: b""),
        "data-short": raw(lambda data: data[:-1]),
        "data-long": raw(lambda data: data + bytes(4)),
        "data-in-two-fields": both_fields,
        "data-in-wrong-field": wrong_field,
        "data-few": few_floats,
        "initializer-twice": twice,
        "initializer-unnamed": unnamed,
    }
    yield from _spoiled(good, spoilers)


def _spoiled(good: Good, spoilers: dict[str, Spoil]) -> Iterator[Case]:
    for what, spoil in spoilers.items():
        model = good.proto()
        spoil(model)
        path = good.new(f"{what}.onnx")
        path.write_bytes(model.SerializeToString())
        yield Case(f"onnx-{what}", good.convert(model=path), (f"{what}.onnx",))


def _external(good: Good) -> Iterator[Case]:
    secret = good.new("secret.bin")
    secret.write_bytes(os.urandom(4096))

    def write(what: str, **entries: str) -> Path:
        model = good.proto()
        tensor = next(t for t in model.graph.initializer if t.name.endswith("fc1.weight"))
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
        path = good.new(f"{what}.onnx")
        path.write_bytes(model.SerializeToString())
        (path.parent / "data.bin").write_bytes(bytes(512))
        return path

    yield _refuse(good, write("external-parent", location=f"../{secret.parent.name}/secret.bin"))
    yield _refuse(good, write("external-deep", location="a/../../x/../" + f"{secret.parent.name}/secret.bin"))
    yield _refuse(good, write("external-absolute", location=str(secret)))
    yield _refuse(good, write("external-windows", location="C:\\secret.bin"))
    yield _refuse(good, write("external-backslash", location="..\\secret.bin"))
    yield _refuse(good, write("external-missing", location="gone.bin"))
    yield _refuse(good, write("external-unnamed"))
    yield _refuse(good, write("external-empty-name", location=""))
    yield _refuse(good, write("external-null", location="data\0.bin"))
    yield _refuse(good, write("external-huge-offset", location="data.bin", offset=str(2**50)))
    yield _refuse(good, write("external-overflowing-offset", location="data.bin", offset=str(2**64 - 8)))
    yield _refuse(good, write("external-negative-offset", location="data.bin", offset="-16"))
    yield _refuse(good, write("external-offset-of-letters", location="data.bin", offset="abc"))
    yield _refuse(good, write("external-huge-length", location="data.bin", length=str(2**50)))
    yield _refuse(good, write("external-negative-length", location="data.bin", length="-1"))
    yield _refuse(good, write("external-short-length", location="data.bin", length="8"))
    yield _refuse(good, write("external-behind-the-end", location="data.bin", offset="4", length="512"))
    path = write("external-folder", location="folder")
    (path.parent / "folder").mkdir()
    yield _refuse(good, path)
    path = write("external-link", location="link.bin")
    (path.parent / "link.bin").symlink_to(secret)
    yield _refuse(good, path)
    path = write("external-linked-folder", location="link/secret.bin")
    (path.parent / "link").symlink_to(secret.parent)
    yield _refuse(good, path)
    path = write("external-pipe", location="pipe")
    os.mkfifo(path.parent / "pipe")
    yield _refuse(good, path)
    path = write("external-device", location="zero")
    (path.parent / "zero").symlink_to("/dev/zero")
    yield _refuse(good, path)


def _refuse(good: Good, path: Path) -> Case:
    return Case(f"onnx-{path.stem}", good.convert(model=path), (path.name,))


def _metadata(good: Good) -> Iterator[Case]:
    def props(model: onnx.ModelProto) -> dict[str, onnx.StringStringEntryProto]:
        return {entry.key: entry for entry in model.metadata_props}

    for what, value in {
        "missing": None,
        "not-json": "{",
        "wrong-keys": "{}",
        "size-zero": '{"size":[0,0]}',
        "size-absurd": None,
    }.items():
        model = good.proto()
        entry = props(model)["lampq_onnx.preprocessing"]
        if what == "size-absurd":
            entry.value = entry.value.replace('"size":[4,4]', '"size":[1000000,1000000]')
        elif value is None:
            model.metadata_props.remove(entry)
        else:
            entry.value = value
        path = good.new(f"preprocessing-{what}.onnx")
        path.write_bytes(model.SerializeToString())
        yield Case(f"onnx-preprocessing-{what}", good.validate(reference=path), (path.name, "preprocessing"))
    model = onnx.load(good.model)
    props(model)["lampq_onnx.plan"].value = '{"layers": 3}'
    path = good.new("damaged-plan.onnx")
    path.write_bytes(model.SerializeToString())
    yield Case("onnx-plan-damaged", good.validate(model=path), ("plan", "damaged-plan.onnx"))
    for key in ("weight_bits", "activation_bits"):
        model = onnx.load(good.model)
        entry = next(e for n in model.graph.node for e in n.metadata_props if e.key == f"lampq_onnx.{key}")
        entry.value = "three"
        path = good.new(f"{key}.onnx")
        path.write_bytes(model.SerializeToString())
        yield Case(f"onnx-metadata-{key}", ("inspect", path), (key,))


def _numbers(good: Good) -> Iterator[Case]:
    for what, value in {"nan": np.nan, "infinity": np.inf, "minus-infinity": -np.inf}.items():
        for layer in ("blocks.0.mlp.fc1", "patch_embed.proj", "head"):
            model = good.proto()
            tensor = next(t for t in model.graph.initializer if t.name == f"{layer}.weight")
            array = numpy_helper.to_array(tensor).copy()
            array.flat[-1] = value
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            path = good.new(f"{what}.onnx")
            path.write_bytes(model.SerializeToString())
            yield Case(f"onnx-weight-{what}-{layer}", good.convert(model=path), (layer, "NaN or infinity"))
    model = good.proto()
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name == "norm.bias":
            array = numpy_helper.to_array(tensor).copy()
            array[:] = np.nan
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    path = good.new("nan-outside.onnx")
    path.write_bytes(model.SerializeToString())
    yield Case("onnx-nan-answers", good.validate(reference=path), ("NaN",))
