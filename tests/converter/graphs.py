"""Tiny ONNX models, and plain ways to run them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from lampq_onnx.artifacts import ActivationRange, BitPlan, LayerPlan
from lampq_onnx.graph.overflows import Overflows, write_overflows
from lampq_onnx.targets import Target

LEVELS = (
    ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
)

Shape = Sequence[int | str]


class Builder:
    """Collects nodes and constants; values are handed around by name."""

    def __init__(self, seed: int = 0, opset: int = 20) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self._count = 0

    def constant(self, name: str, array: object, dtype: type = np.float32) -> str:
        self.constants[name] = np.asarray(array, dtype)
        return name

    def ints(self, *values: int) -> str:
        return self.constant("ints_" + "_".join(map(str, values)).replace("-", "m"), values, np.int64)

    def random(self, name: str, *shape: int) -> str:
        return self.constant(name, self.rng.normal(size=shape) / np.sqrt(max(shape[0], 1)))

    def op(self, kind: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: object) -> str:
        """Add a node; the name of its (last) result."""
        self._count += 1
        names = [f"v{self._count}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=name, **attributes))
        return names[-1]

    def ops(self, kind: str, *inputs: str, outputs: int, **attributes: object) -> list[str]:
        """Add a node; the names of all its results."""
        self.op(kind, *inputs, outputs=outputs, **attributes)
        return list(self.nodes[-1].output)

    def rename(self, value: str, name: str) -> str:
        """Call the result of a node ``name``."""
        for node in self.nodes:
            node.output[:] = [name if o == value else o for o in node.output]
            node.input[:] = [name if i == value else i for i in node.input]
        return name

    def model(self, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape | None]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s and list(s)) for n, s in outputs.items()],
            [numpy_helper.from_array(a, n) for n, a in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model, full_check=True)
        return model


def one_matmul(weight: np.ndarray, bias: np.ndarray | None = None, opset: int = 20) -> onnx.ModelProto:
    """x [n, 3, inputs] -> y [n, 3, outputs]; ``weight`` is (inputs, outputs) and called fc.weight."""
    b = Builder(opset=opset)
    y = b.op("MatMul", "x", b.constant("fc.weight", weight), name="mm")
    if bias is not None:
        y = b.op("Add", y, b.constant("fc.bias", bias))
    b.rename(y, "y")
    return b.model({"x": ["n", 3, weight.shape[0]]}, {"y": ["n", 3, weight.shape[1]]})


DIM, HEADS, TOKENS, CLASSES, SIDE, PATCH = 8, 2, 4, 5, 4, 2


def mean(b: Builder, x: str, axis: int, **attributes: int) -> str:
    """ReduceMean, whose axes became an input in opset 18."""
    if b.opset >= 18:
        return b.op("ReduceMean", x, b.ints(axis), **attributes)
    return b.op("ReduceMean", x, axes=[axis], **attributes)


def layer_norm(b: Builder, x: str, gain: str, shift: str, *, decomposed: bool) -> str:
    """LayerNormalization as one operator or as eight."""
    if not decomposed:
        return b.op("LayerNormalization", x, gain, shift, axis=-1)
    centered = b.op("Sub", x, mean(b, x, -1))
    variance = mean(b, b.op("Pow", centered, b.constant("two", 2.0)), -1)
    spread = b.op("Sqrt", b.op("Add", variance, b.constant("epsilon", 1e-5)))
    return b.op("Add", b.op("Mul", b.op("Div", centered, spread), gain), shift)


def activate(b: Builder, x: str, gelu: str) -> str:
    """GELU as one operator, or through Erf."""
    if gelu == "op":
        return b.op("Gelu", x)
    erf = b.op("Erf", b.op("Div", x, b.constant("root_two", np.sqrt(2))))
    product = b.op("Mul", x, b.op("Add", erf, b.constant("one", 1.0)))
    return b.op("Mul", product, b.constant("half", 0.5))


def vit(
    *,
    qkv: str = "fused",
    gelu: str = "op",
    norm: str = "op",
    linear: str = "matmul",
    named: bool = True,
    blocks: int = 2,
    opset: int = 20,
    seed: int = 0,
) -> onnx.ModelProto:
    """A Vision Transformer: images [n, 3, 4, 4] -> logits [n, 5].

    Args:
        qkv: fused or separate. gelu: op or erf. norm: op or decomposed. linear: matmul or gemm (transposed weights).
        named: whether weights and nodes bear module names.
    """
    b = Builder(seed, opset)
    head_dim = DIM // HEADS
    anonymous = iter(range(1000))

    def label(name: str) -> str:
        return name if named else f"onnx::{next(anonymous)}"

    def layer(x: str, name: str, inputs: int, outputs: int, tokens: int | None = TOKENS) -> str:
        node = f"/{name}" if named else ""
        bias = label(f"{name}.bias")
        if linear == "gemm":
            flat = x if tokens is None else b.op("Reshape", x, b.ints(-1, inputs))
            weight = b.random(label(f"{name}.weight"), outputs, inputs)
            y = b.op("Gemm", flat, weight, b.random(bias, outputs), name=node, transB=1)
            return y if tokens is None else b.op("Reshape", y, b.ints(-1, tokens, outputs))
        weight = b.random(label(f"{name}.weight"), inputs, outputs)
        y = b.op("MatMul", x, weight, name=node)
        return b.op("Add", b.random(bias, outputs), y)

    def normalize(x: str, name: str) -> str:
        gain, shift = b.random(label(f"{name}.weight"), DIM), b.random(label(f"{name}.bias"), DIM)
        return layer_norm(b, x, gain, shift, decomposed=norm == "decomposed")

    def attention(x: str, name: str) -> str:
        if qkv == "fused":
            joined = layer(x, f"{name}.qkv", DIM, 3 * DIM)
            split = b.op("Reshape", joined, b.ints(-1, TOKENS, 3, HEADS, head_dim))
            split = b.op("Transpose", split, perm=[2, 0, 3, 1, 4])
            picked = []
            for i in range(3):
                index = b.constant(f"index{i}", i, np.int64)
                picked.append(b.op("Gather", split, index, axis=0))
            q, k, v = picked
        else:
            q, k, v = (
                b.op(
                    "Transpose",
                    b.op("Reshape", layer(x, f"{name}.{part}", DIM, DIM), b.ints(-1, TOKENS, HEADS, head_dim)),
                    perm=[0, 2, 1, 3],
                )
                for part in ("q", "k", "v")
            )
        q = b.op("Mul", q, b.constant("attention_scale", head_dim**-0.5))
        weights = b.op("Softmax", b.op("MatMul", q, b.op("Transpose", k, perm=[0, 1, 3, 2])), axis=-1)
        mixed = b.op("Transpose", b.op("MatMul", weights, v), perm=[0, 2, 1, 3])
        return layer(b.op("Reshape", mixed, b.ints(-1, TOKENS, DIM)), f"{name}.proj", DIM, DIM)

    kernel = b.random(label("patch_embed.proj.weight"), DIM, 3, PATCH, PATCH)
    x = b.op(
        "Conv",
        "images",
        kernel,
        b.random(label("patch_embed.proj.bias"), DIM),
        strides=[PATCH, PATCH],
        kernel_shape=[PATCH, PATCH],
        name="/patch_embed/proj" if named else "",
    )
    x = b.op("Transpose", b.op("Reshape", x, b.ints(0, DIM, -1)), perm=[0, 2, 1])
    x = b.op("Add", x, b.random(label("pos_embed"), 1, TOKENS, DIM))
    for i in range(blocks):
        x = b.op("Add", x, attention(normalize(x, f"blocks.{i}.norm1"), f"blocks.{i}.attn"))
        hidden = layer(normalize(x, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1", DIM, 2 * DIM)
        x = b.op("Add", x, layer(activate(b, hidden, gelu), f"blocks.{i}.mlp.fc2", 2 * DIM, DIM))
    x = normalize(x, "norm")
    pooled = mean(b, x, 1, keepdims=0)
    b.rename(layer(pooled, "head", DIM, CLASSES, None), "logits")
    return b.model({"images": ["batch", 3, SIDE, SIDE]}, {"logits": ["batch", CLASSES]})


def plan_for(
    names: Sequence[str],
    *,
    weight_bits: int = 8,
    activation_bits: int = 8,
    low: float = -4.0,
    high: float = 4.0,
) -> BitPlan:
    """The same widths and range for all layers."""
    layer = LayerPlan(
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        activation_range=ActivationRange(low=low, high=high),
        output_range=ActivationRange(low=4 * low, high=4 * high),
    )
    return BitPlan(layers=dict.fromkeys(names, layer))


def as_ir(model: onnx.ModelProto) -> ir.Model:
    """A copy of ``model`` in onnx-ir."""
    return ir.from_proto(onnx.ModelProto.FromString(model.SerializeToString()))


def measured(model: onnx.ModelProto) -> ir.Model:
    """A copy of ``model`` that says that nothing overflows in float16."""
    graph = as_ir(model)
    write_overflows(graph, Overflows())
    return graph


def plan_on(target: Target, names: Sequence[str], weight_bits: int) -> BitPlan:
    """Equal widths for all layers: 8 bits for float8, and inputs in float if the target leaves them there."""
    weight_bits = 8 if target.float8 else weight_bits
    return plan_for(names, weight_bits=weight_bits, activation_bits=32 if target.weights_only else 8)


def as_proto(model: ir.Model) -> onnx.ModelProto:
    """Serialized and checked."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def session(model: onnx.ModelProto, level: ort.GraphOptimizationLevel = LEVELS[0]) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, x: np.ndarray, level: ort.GraphOptimizationLevel = LEVELS[0]) -> np.ndarray:
    """First output in onnxruntime, without optimizations unless told."""
    return session(model, level).run(None, {model.graph.input[0].name: x})[0]


def kernels(model: onnx.ModelProto) -> list[str]:
    """Operators after onnxruntime's optimizations."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def reference(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """First output in onnx's own evaluator."""
    return np.asarray(ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x})[0])


def with_outputs(model: onnx.ModelProto, *names: str) -> onnx.ModelProto:
    """The model with inner tensors as its only outputs."""
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return probe


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """The node called ``name``."""
    return next(node for node in model.graph.node if node.name == name)


def count(model: onnx.ModelProto, kind: str) -> int:
    """Number of nodes of an operator."""
    return sum(node.op_type == kind for node in model.graph.node)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """All initializers."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
