"""What the importer's passes leave as it is says why."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from lampq_onnx.graph.edits import CountingPass
from lampq_onnx.importer import import_model
from lampq_onnx.importer.dynamic_batch import DynamicBatch
from lampq_onnx.importer.fuse import FuseGelu, FuseLayerNorm
from lampq_onnx.importer.merge_qkv import MergeQKV
from lampq_onnx.importer.plain_layers import PlainLayers
from tests.converter.graphs import vit
from tests.importer.test_importer_fuse import CENTERED, ERF, NORMS, OTHERS, fused, make
from tests.importer.test_importer_plain_layers import einsum


def graph(body: str, signature: str, constants: dict[str, np.ndarray], opset: int = 20) -> ir.Model:
    """A graph of nodes in onnx's text form, in which ``__`` stands for a dot in a name."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\ng {signature} {{\n{body}\n}}')
    for node in proto.graph.node:
        node.input[:] = [name.replace("__", ".") for name in node.input]
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def reasons(step: CountingPass, model: ir.Model) -> dict[str, str]:
    """Place -> reason, after the pass; it must not have changed anything."""
    before = ir.to_proto(model).SerializeToString()
    step(model)
    assert step.count == 0
    assert ir.to_proto(model).SerializeToString() == before
    assert all(refusal.step == type(step).__name__ and refusal.purpose for refusal in step.refusals)
    return {refusal.where: refusal.reason for refusal in step.refusals}


def import_reasons(proto: onnx.ModelProto) -> dict[tuple[str, str], tuple[str, ...]]:
    """(pass, reason) -> places, of the import of a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(proto, path)
        return {(entry.step, entry.reason): entry.where for entry in import_model(path).not_done}


EINSUMS = {
    "bqd,bde->bqe": "keeps a dimension that activations and weights share",
    "bqd,de->beq": "not the other dimensions of the activations, then those of the weights",
    "qd,de->q": "sums over a dimension that only the weights have",
    "bdq,de->bqe": "not the last ones of the activations",
    "bqd,e->bqde": "share no dimension",
    "bqd,d->bq": "the weights have no other dimension",
    "bqd,dd->bq": "a diagonal",
    "...qd,dhk->...qhk": "a Reshape must know their number",
    "bqd,de": "does not name the dimensions of the result",
}


@pytest.mark.parametrize("equation", EINSUMS)
def test_einsums_with_weights(equation: str) -> None:
    ((where, reason),) = reasons(PlainLayers(), einsum(equation)).items()
    assert where == "Einsum -> y"
    assert EINSUMS[equation] in reason


def test_other_einsums() -> None:
    signature = "(float[n,5,6] x) => (float y)"
    dots = graph('y = Einsum<equation="bqd,...de->...bqe">(x, w)', signature, {"w": random(6, 4)})
    assert "dimensions without a letter" in reasons(PlainLayers(), dots)["Einsum -> y"]
    three = graph('y = Einsum<equation="bqd,de,e->bqe">(x, w, v)', signature, {"w": random(6, 4), "v": random(4)})
    assert reasons(PlainLayers(), three) == {"Einsum -> y": "it has 3 operands, and a layer has 2"}
    activations = graph('y = Einsum<equation="bqd,bkd->bqk">(x, x)', signature, {})
    assert reasons(PlainLayers(), activations) == {}


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((4,), None),
        ((5, 1), None),  # a number for each row: no bias at all
        ((5, 4), None),
        ((1, 1), "one number for all outputs"),
        ((1, 1, 1, 4), "makes the result larger"),
    ],
)
def test_biases_of_several_dimensions(shape: tuple[int, ...], words: str | None) -> None:
    constants = {"fc.weight": random(6, 4), "c": random(*shape)}
    model = graph("p = MatMul(x, fc__weight)\ny = Add(p, c)", "(float[n,5,6] x) => (float y)", constants)
    found = reasons(PlainLayers(), model)
    assert list(found) == ([] if words is None else ["fc"])
    assert (words or "") in "".join(found.values())


GELUS = {
    "sigmoid": "its function differs from GELU by 0.",
    "twice GELU": "its function differs from GELU by 8 for inputs up to 8, and 1.6e-05 is allowed",
    "vector factor": "a constant in it is not a single number",
}


@pytest.mark.parametrize("form", GELUS)
def test_products_with_a_curve_that_are_not_gelu(form: str) -> None:
    ((where, reason),) = reasons(FuseGelu(), make(OTHERS[form])).items()
    assert where.startswith(("Erf", "Tanh"))
    assert reason.startswith(GELUS[form])


def test_the_difference_from_gelu_is_the_largest_one() -> None:
    """x (1 + tanh(sqrt(2) x)) / 2, against GELU with tanh."""
    x = np.linspace(-8, 8, 321)
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    wanted = np.abs(0.5 * x * (np.tanh(np.sqrt(2) * x) - np.tanh(inner))).max()
    (reason,) = reasons(FuseGelu(), make(OTHERS["sigmoid"])).values()
    assert f"by {wanted:.1g} for" in reason


def test_gelu_with_wrong_constants_or_without_bound() -> None:
    three = make("d=Div(x,three) e=Erf(d) a=Add(e,one) h=Mul(x,half) y=Mul(h,a)")
    assert "differs from GELU by" in reasons(FuseGelu(), three)["Erf -> e"]
    pole = make("d=Div(x,root) e=Erf(d) h=Div(e,x) y=Mul(h,half)")
    assert "not finite" in reasons(FuseGelu(), pole)["Erf -> e"]
    flat = make(ERF["x/2 (1+e)"], (1, 1, 1, 1))
    assert "more dimensions than its input" in reasons(FuseGelu(), flat)["Erf -> e"]


def test_a_curve_alone_is_no_gelu() -> None:
    assert reasons(FuseGelu(), make("d=Mul(x,half) t=Tanh(d) y=Mul(t,two)")) == {}
    assert reasons(FuseGelu(), make("y=Tanh(x)")) == {}


NORM_REASONS = {
    "unbiased variance": "it differs from a normalization of the last axis by",
    "epsilon outside": "it differs from a normalization of the last axis by",
    "another axis": "it differs from a normalization of the last axis by",
}


@pytest.mark.parametrize("form", NORM_REASONS)
def test_functions_that_are_almost_normalizations(form: str) -> None:
    found = reasons(FuseLayerNorm(), make(OTHERS[form]))
    assert list(found) == ["ReduceMean -> m"]
    assert found["ReduceMean -> m"].startswith(NORM_REASONS[form])


def test_normalizations_without_epsilon_or_with_other_constants() -> None:
    bare = make(CENTERED + "s=Sqrt(v) q=Div(d,s) z=Mul(q,scale) y=Add(z,shift)")
    assert reasons(FuseLayerNorm(), bare) == {"ReduceMean -> m": "it adds no small positive number to the variance"}
    rows = make(CENTERED + "w=Add(v,eps) s=Sqrt(w) q=Div(d,s) y=Mul(q,scale)")
    rows.graph.initializers["scale"].const_value = ir.tensor(random(5, 1), name="scale")
    # The part without this factor is a normalization, and is replaced.
    nodes, _ = fused(rows, FuseLayerNorm())
    assert [node.op_type for node in nodes] == ["LayerNormalization", "Mul"]
    inside = make(CENTERED + "u=Mul(v,scale) w=Add(u,eps) s=Sqrt(w) y=Div(d,s)")
    inside.graph.initializers["scale"].const_value = ir.tensor(random(5, 1), name="scale")
    assert "another length than the last axis" in reasons(FuseLayerNorm(), inside)["ReduceMean -> m"]


def test_means_alone_are_no_normalizations() -> None:
    assert reasons(FuseLayerNorm(), make("m=ReduceMean(x,last) y=Sub(x,m)")) == {}
    assert reasons(FuseLayerNorm(), make(CENTERED + "y=Sub(x,v)")) == {}


@pytest.mark.parametrize("affine", [False, True])
def test_channels_first_in_images_are_not_the_last_axis(affine: bool) -> None:
    """The mean over the channels (axis 1) of images is no normalization of the last axis, of whatever length."""
    body = (
        CENTERED.replace("last", "first")
        + "w=Add(v,eps) s=Sqrt(w) "
        + ("q=Div(d,s) y=Mul(q,c)" if affine else "y=Div(d,s)")
    )
    body = "\n".join(body.replace("ReduceMean(", "ReduceMean<keepdims=1>(").split())
    constants = {
        "first": np.array([1], np.int64),
        "two": np.array(2, np.float32),
        "eps": np.array(1e-6, np.float32),
    } | ({"c": random(4, 1, 1)} if affine else {})
    found = reasons(FuseLayerNorm(), graph(body, "(float[n,4,4,4] x) => (float[n,4,4,4] y)", constants))
    assert found["ReduceMean -> m"].startswith("it differs from a normalization of the last axis by")


@pytest.mark.parametrize(
    ("text", "inner", "step"), [(ERF["x/2 (1+e)"], "h", FuseGelu), (NORMS["power"], "d", FuseLayerNorm)]
)
def test_a_value_inside_that_is_read_elsewhere(text: str, inner: str, step: type[CountingPass]) -> None:
    model = make(text)
    value = next(node.outputs[0] for node in model.graph if node.outputs[0].name == inner)
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", 5, 8])
    model.graph.outputs.append(value)
    (reason,) = reasons(step(), model).values()
    assert reason == "other nodes, or an output of the graph, read a value inside of it too"


def test_old_opsets_lack_the_operators() -> None:
    for step, text in ((FuseGelu(), ERF["h+h e"]), (FuseLayerNorm(), NORMS["power"])):
        model = make(text)
        model.opset_imports[""] = 16
        assert reasons(step, model)[""].startswith("the graph has opset 16, and the operator came with opset")
    identity = graph("y = Identity(x)", "(float[n,5] x) => (float[n,5] y)", {}, opset=16)
    assert reasons(FuseGelu(), identity) == {}


def attention(query: str, key: str, value: str, products: str, rank: int = 3, **more: np.ndarray) -> ir.Model:
    """An attention whose layers and products are given as text."""
    shape = "n,5,6" if rank == 3 else "n,6"
    weights = {f"a.{part}.weight": random(6, 6) for part in ("query", "key", "value")}
    # A layer that reads the images themselves would be a patch embedding.
    body = "\n".join(["h = Relu(x)", f"q = {query}", f"k = {key}", f"v = {value}", *products.split("; ")])
    used = {name: array for name, array in (weights | more).items() if name.replace(".", "__") in body}
    return graph(body.replace(" = ; ", ""), f"(float[{shape}] x) => (float y)", used)


LAYERS = ("MatMul(h, a__query__weight)", "MatMul(h, a__key__weight)", "MatMul(h, a__value__weight)")
GEMMS = ("Gemm(h, a__query__weight)", "Gemm(h, a__key__weight)", "Gemm(h, a__value__weight)")
WEIGHTED = "t = Transpose<perm=[0,2,1]>(k); s = MatMul(q, t); p = Softmax<axis=-1>(s); "
FLAT = "t = Transpose<perm=[1,0]>(k); s = MatMul(q, t); p = Softmax<axis=-1>(s); y = MatMul(p, v)"
ATTENTIONS = {
    "two layers": (
        attention(*LAYERS[:2], "Identity(k)", WEIGHTED + "y = MatMul(p, v)"),
        "2 layers of attention read the same input, and only 3 are merged",
    ),
    "value first": (
        attention(*LAYERS, WEIGHTED + "u = Transpose<perm=[0,2,1]>(v); y = MatMul(u, p)"),
        "do not show which one is query, key and value",
    ),
    "alpha": (
        attention(GEMMS[0].replace("Gemm", "Gemm<alpha=0.5>"), *GEMMS[1:], FLAT, rank=2),
        "one of the three Gemm has an alpha or beta that is not 1",
    ),
    "computed bias": (
        attention(GEMMS[0], GEMMS[1].replace("weight)", "weight, h)"), GEMMS[2], FLAT, rank=2),
        "one of the three Gemm adds something else than a number for each output",
    ),
}  # fmt: skip


def test_layers_of_an_attention_that_reshape_their_input_for_themselves() -> None:
    found = import_reasons(vit(qkv="separate", linear="gemm"))
    why = "3 layers of attention read one tensor, each through a Reshape of its own"
    assert found == {("MergeQKV", why): ("blocks.0.attn.q", "blocks.1.attn.q")}


FORMS = list(itertools.product(("fused", "separate"), ("op", "erf"), ("op", "decomposed"), ("matmul", "gemm")))


@pytest.mark.parametrize(
    ("qkv", "gelu", "norm", "linear"), [form for form in FORMS if form[::3] != ("separate", "gemm")]
)
def test_usual_models_give_no_reasons(qkv: str, gelu: str, norm: str, linear: str) -> None:
    assert import_reasons(vit(qkv=qkv, gelu=gelu, norm=norm, linear=linear)) == {}


@pytest.mark.parametrize("case", ATTENTIONS)
def test_layers_of_an_attention_that_are_not_merged(case: str) -> None:
    model, words = ATTENTIONS[case]
    ((where, reason),) = reasons(MergeQKV(), model.clone()).items()
    assert where == "a.query"
    assert words in reason


def test_a_layer_whose_result_is_an_output_is_not_merged() -> None:
    model = attention(*LAYERS, WEIGHTED + "y = MatMul(p, v)")
    keys = next(node.outputs[0] for node in model.graph if node.outputs[0].name == "k")
    model.graph.outputs.append(keys)
    assert "whose name must stay" in reasons(MergeQKV(), model)["a.query"]


@pytest.mark.parametrize(("layers", "rank"), [(LAYERS, 3), (GEMMS, 2)])
def test_three_layers_of_an_attention_are_merged_without_a_word(layers: tuple[str, ...], rank: int) -> None:
    step = MergeQKV()
    step(attention(*layers, FLAT if rank == 2 else WEIGHTED + "y = MatMul(p, v)", rank=rank))
    assert (step.count, step.refusals) == (1, ())


def constant(**arrays: object) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in arrays.items()}


BATCHES = {
    "another first dimension": (
        "y = Reshape(x, s)", 2, constant(s=[3, 20]), "Reshape -> y",
        "the first dimension of its result, 3, is no multiple of the 2 images",
    ),
    "one that follows": (
        "y = Reshape(x, s)", 2, constant(s=[10, -1]), "Reshape -> y",
        "the first dimension of its result is fixed, and another one follows from the rest (-1)",
    ),
    "a computed value": (
        "m = ReduceMax<keepdims=1>(x, a)\ny = Expand(m, s)", 2, constant(a=[0], s=[2, 5, 6]), "Expand -> y",
        "it repeats a computed value for 2 images",
    ),
    "rows that differ": (
        "y = Concat<axis=1>(c, x)", 2, {"c": random(2, 1, 6)}, "Concat -> y",
        "its constant is not the same for each of the 2 images",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BATCHES)
def test_what_stays_at_a_fixed_number_of_images(case: str) -> None:
    body, size, constants, where, reason = BATCHES[case]
    step = DynamicBatch()
    step(graph(body, f"(float[{size},5,6] x) => (float y)", constants))
    assert step.count == 0
    assert [(refusal.where, refusal.reason) for refusal in step.refusals] == [(where, reason)]


@pytest.mark.parametrize(
    ("body", "constants"),
    [
        ("y = Reshape(x, s)", constant(s=[1, 30])),
        ("y = Reshape(x, s)", constant(s=[10, 3])),
        ("y = Reshape(x, s)", constant(s=[-1, 6])),
        ("y = Reshape(x, s)", constant(s=[0, -1])),
        ("m = ReduceMax<keepdims=1>(x, a)\ny = Expand(m, s)", constant(a=[0], s=[1, 5, 6])),
        ("y = Concat<axis=1>(c, x)", {"c": random(1, 1, 6)}),
    ],
)
def test_what_fits_any_number_of_images_is_not_reported(body: str, constants: dict[str, np.ndarray]) -> None:
    step = DynamicBatch()
    step(graph(body, "(float[1,5,6] x) => (float y)", constants))
    assert step.refusals == ()


@pytest.mark.parametrize("opened", [False, True])
def test_equal_queries_for_each_image_keep_one_row(opened: bool) -> None:
    """A pooling head that was exported for two images holds its query twice; a matrix has no images."""
    step = DynamicBatch()
    query = np.broadcast_to(random(1, 1, 6), (2, 1, 6)).copy()
    rows = np.broadcast_to(random(1, 6), (2, 6)).copy()
    body = "t = Transpose<perm=[0,2,1]>(x)\ns = MatMul(q, t)\na = Softmax<axis=-1>(s)\ny = MatMul(a, x)"
    model = graph(body, "(float[2,5,6] x) => (float y)", {"q": query})
    if opened:
        model.graph.node(0).outputs[0].shape = ir.Shape(["n", 6, 5])
    assert step(model).modified
    x = np.random.default_rng(3).normal(size=(3, 5, 6)).astype(np.float32)
    (found,) = ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"x": x})
    scores = np.exp(query[:1] @ x.transpose(0, 2, 1))
    np.testing.assert_allclose(found, scores / scores.sum(-1, keepdims=True) @ x, rtol=1e-5, atol=1e-6)
    body = "m = Mul(q, q)\ne = Expand(m, s)\ny = Add(x, e)"
    model = graph(body, "(float[2,5,6] x) => (float y)", {"q": query[:1], **constant(s=[2, 5, 6])})
    assert DynamicBatch()(model).modified
    (found,) = ort.InferenceSession(ir.to_proto(model).SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(found, x + query[:1] ** 2, rtol=1e-6)
    assert not DynamicBatch()(graph("y = MatMul(x, q)", "(float[2,2] x) => (float y)", {"q": rows})).modified


def test_one_constant_of_two_that_differs_is_reported() -> None:
    step = DynamicBatch()
    constants = {"c": random(2, 1, 6), "same": np.ones((2, 1, 6), np.float32)}
    step(graph("y = Concat<axis=1>(c, same, x)", "(float[2,5,6] x) => (float y)", constants))
    assert [refusal.where for refusal in step.refusals] == ["Concat -> y"]


def test_the_import_of_a_file_joins_the_reasons(tmp_path: Path) -> None:
    """Two functions that are almost GELU give one entry with two places."""
    body = "\n".join(
        f"r{i} = Relu({x})\nd{i} = Div(r{i}, root)\ne{i} = Erf(d{i})\na{i} = Add(e{i}, one)\n{y} = Mul(r{i}, a{i})"
        for i, (x, y) in enumerate([("x", "z"), ("z", "y")])
    )
    numbers = {"root": np.array(2**0.5, np.float32), "one": np.array(1, np.float32)}
    model = graph(body, "(float[n,3,8,8] x) => (float[n,3,8,8] y)", numbers)
    ir.save(model, tmp_path / "model.onnx")
    imported = import_model(tmp_path / "model.onnx")
    assert "GELU joined" not in imported.changes
    (entry,) = imported.not_done
    assert (entry.step, entry.where) == ("FuseGelu", ("Erf -> e0", "Erf -> e1"))
    assert entry.sentence().startswith(
        "one operator for a GELU (FuseGelu): not done here, because its function differs"
    )
