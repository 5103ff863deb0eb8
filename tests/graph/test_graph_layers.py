from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from lampq_onnx.graph.layers import annotate, find_layers
from tests.converter.graphs import CLASSES, DIM, PATCH, Builder, as_ir, one_matmul, vit


def expected(qkv: str, blocks: int = 2) -> list[tuple[str, str]]:
    """(name, type) in graph order."""
    parts = ["q", "k", "v"] if qkv == "separate" else ["qkv"]
    block = [
        *((f"attn.{part}", "qkv") for part in parts),
        ("attn.proj", "proj"),
        ("mlp.fc1", "fc1"),
        ("mlp.fc2", "fc2"),
    ]
    inner = [(f"blocks.{i}.{name}", kind) for i in range(blocks) for name, kind in block]
    return [("patch_embed.proj", "patch_embed"), *inner, ("head", "head")]


@pytest.mark.parametrize("linear", ["matmul", "gemm"])
@pytest.mark.parametrize("norm", ["op", "decomposed"])
@pytest.mark.parametrize("gelu", ["op", "erf"])
@pytest.mark.parametrize("qkv", ["fused", "separate"])
@pytest.mark.parametrize("opset", [13, 17, 20])
def test_a_vision_transformer_in_every_style(opset: int, qkv: str, gelu: str, norm: str, linear: str) -> None:
    if (gelu == "op" and opset < 20) or (norm == "op" and opset < 17):
        pytest.skip("the operator is newer")
    for named in (True, False):
        model = vit(qkv=qkv, gelu=gelu, norm=norm, linear=linear, named=named, opset=opset)
        layers = find_layers(as_ir(model).graph)
        assert [layer.type for layer in layers] == [kind for _, kind in expected(qkv)]
        names = [layer.name for layer in layers]
        if named:
            assert names == [name for name, _ in expected(qkv)]
        assert all(names)
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("linear", ["matmul", "gemm"])
def test_matrices_biases_and_values(linear: str) -> None:
    model = vit(linear=linear)
    arrays = {tensor.name: tensor.const_value.numpy() for tensor in as_ir(model).graph.initializers.values()}
    for layer in find_layers(as_ir(model).graph):
        weight = arrays[f"{layer.name}.weight"]
        if layer.type == "patch_embed":
            weight = weight.reshape(DIM, 3 * PATCH * PATCH)
        elif linear == "matmul":
            weight = weight.T
        np.testing.assert_array_equal(layer.matrix(), weight)
        assert layer.matrix().dtype == np.float32
        assert layer.matrix().flags.c_contiguous
        assert layer.weight.name == f"{layer.name}.weight"
        assert layer.bias is not None
        assert layer.bias.name == f"{layer.name}.bias"
        assert (layer.bias_node is None) == (layer.node.op_type != "MatMul")
        if layer.bias_node is not None:
            assert layer.output is layer.bias_node.outputs[0]
        if layer.name == "head":
            assert layer.output.name == "logits"
            assert layer.matrix().shape == (CLASSES, DIM)


def test_annotations_come_first() -> None:
    model = as_ir(vit(named=False))
    for number, layer in enumerate(find_layers(model.graph)):
        annotate(layer, f"layer{number}")
    layer = find_layers(model.graph)[1]
    layer.node.metadata_props["lampq_onnx.type"] = "fc1"
    again = find_layers(ir.from_proto(ir.to_proto(model)).graph)
    assert [layer.name for layer in again] == [f"layer{i}" for i in range(10)]
    assert again[1].type == "fc1"
    assert again[4].type == "fc2"


def test_names_are_unique() -> None:
    b = Builder()
    weight = b.random("fc.weight", 4, 4)
    y = "x"
    for _ in range(3):
        y = b.op("Relu", b.op("MatMul", y, weight))
    b.rename(y, "y")
    layers = find_layers(as_ir(b.model({"x": ["n", 2, 4]}, {"y": ["n", 2, 4]})).graph)
    assert [layer.name for layer in layers] == ["MatMul.fc.weight", "MatMul.fc.weight.2", "MatMul.fc.weight.3"]


def test_the_exporters_scopes_name_a_layer() -> None:
    model = as_ir(vit(named=False, blocks=1))
    node = next(node for node in model.graph if node.op_type == "MatMul")
    node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'blocks.0', 'blocks.0.attn.qkv', 'linear']"
    assert find_layers(model.graph)[1].name == "blocks.0.attn.qkv"


def test_what_is_no_layer() -> None:
    b = Builder()
    kernel = b.random("depthwise.weight", 3, 1, 2, 2)
    b.op("Conv", "x", kernel, group=3, kernel_shape=[2, 2], name="depthwise")
    flat = b.op("Reshape", "x", b.ints(0, 3, -1))
    b.op("MatMul", flat, b.random("stack", 1, 16, 16), name="three dimensions")
    b.op("MatMul", b.random("left", 4, 3), flat, name="weight on the left")
    square = b.op("MatMul", flat, b.op("Transpose", flat, perm=[0, 2, 1]), name="no constant")
    rows = b.op("Reshape", "x", b.ints(48, -1))
    b.op("Gemm", rows, b.random("gemm.weight", 48, 4), transA=1, name="transposed input")
    b.rename(square, "y")
    model = b.model({"x": ["n", 3, 4, 4]}, {"y": ["n", 3, 3]})
    assert find_layers(as_ir(model).graph) == []


@pytest.mark.parametrize(("kernel", "kind"), [(2, "head"), (1, "conv"), (3, "conv")])
def test_a_later_convolution_is_a_layer_where_its_patches_do_not_overlap(kernel: int, kind: str) -> None:
    b = Builder()
    x = b.op("Conv", "x", b.random("stem.weight", 3, 3, 2, 2), strides=[2, 2], kernel_shape=[2, 2])
    weight = b.random("next.weight", 3, 3, kernel, kernel)
    x = b.op("Conv", b.op("Relu", x), weight, strides=[2, 2], kernel_shape=[kernel, kernel])
    b.rename(x, "y")
    layers = find_layers(as_ir(b.model({"x": ["n", 3, 12, 12]}, {"y": ["n", 3, None, None]})).graph)
    assert [(layer.name, layer.type) for layer in layers] == [("stem", "patch_embed"), ("next", kind)]


def test_an_add_of_two_computed_values_is_no_bias() -> None:
    b = Builder()
    y = b.op("Add", b.op("MatMul", "x", b.random("fc.weight", 4, 4)), "x")
    b.rename(y, "y")
    layer = find_layers(as_ir(b.model({"x": ["n", 2, 4]}, {"y": ["n", 2, 4]})).graph)[0]
    assert layer.bias is None
    assert layer.output is layer.node.outputs[0]
    with_bias = find_layers(as_ir(one_matmul(np.eye(4, dtype=np.float32), np.ones(4, np.float32))).graph)[0]
    assert with_bias.bias is not None


def role_in(text: str) -> dict[str, str]:
    """Roles of the layers of a graph in ONNX text, by the name of their weight."""
    model = ir.from_onnx_text(text)
    rng = np.random.default_rng(0)
    for value in list(model.graph.inputs)[1:]:
        value.const_value = ir.tensor(
            rng.normal(size=[int(d) for d in value.shape]).astype(np.float32), name=value.name
        )
        model.graph.register_initializer(value)
    del model.graph.inputs[1:]
    return {layer.weight.name or "": layer.type for layer in find_layers(model.graph)}


def test_a_rotation_of_queries_is_no_residual_and_a_norm_behind_attention_is_passed() -> None:
    """Rotary embedding adds two values of one layer; BEiT-3 normalizes before the last layer of attention and MLP."""
    found = role_in("""
        <ir_version: 10, opset_import: ["" : 23]>
        g (float[n, 4, 8] x, float[8, 8] wq, float[8, 8] wk, float[8, 8] wv, float[8, 8] wo, float[4, 8] cos,
           float[4, 8] sin, float[8] g, float[8, 8] w1, float[8, 8] w2, float[8, 8] last) => (float[n, 4, 8] y)
        {
          pre = Relu (x)
          q = MatMul (pre, wq)
          qn = Neg (q)
          qa = Mul (q, cos)
          qb = Mul (qn, sin)
          qr = Add (qa, qb)
          k = MatMul (pre, wk)
          v = MatMul (pre, wv)
          kt = Transpose <perm = [0, 2, 1]> (k)
          s = MatMul (qr, kt)
          p = Softmax (s)
          o = MatMul (p, v)
          on = LayerNormalization (o, g)
          a = MatMul (on, wo)
          r = Add (pre, a)
          n1 = LayerNormalization (r, g)
          h = MatMul (n1, w1)
          act = Gelu (h)
          n2 = LayerNormalization (act, g)
          f = MatMul (n2, w2)
          r2 = Add (r, f)
          y = MatMul (r2, last)
        }
    """)
    assert found == {"wq": "qkv", "wk": "qkv", "wv": "qkv", "wo": "proj", "w1": "fc1", "w2": "fc2", "last": "head"}


@pytest.mark.parametrize("other", ["copy", "x"])
def test_a_sum_of_an_activation_and_its_normalized_copy_is_no_residual(other: str) -> None:
    """ConvNeXt V2 adds to the activations what they are relative to their mean; a residual Add ends the MLP instead."""
    found = role_in(f"""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[n, 4, 8] x, float[8, 8] w0, float[8, 8] w1, float[8, 8] w2, float[8] weight, float[8] bias,
           float[8, 8] last) => (float[n, 4, 8] y)
        {{
          r = MatMul (x, w0)
          h = MatMul (r, w1)
          act = Gelu (h)
          size = ReduceL2 <keepdims = 1> (act)
          mean = ReduceMean <keepdims = 1> (size)
          ratio = Div (size, mean)
          scaled = Mul (act, ratio)
          weighted = Mul (scaled, weight)
          copy = Add (weighted, bias)
          sum = Add (act, {"r" if other == "x" else "copy"})
          f = MatMul (sum, w2)
          r2 = Add (r, f)
          n2 = Neg (r2)
          y = MatMul (n2, last)
        }}
    """)
    assert found["w1"] == "fc1"
    assert found["w2"] == ("linear" if other == "x" else "fc2")
