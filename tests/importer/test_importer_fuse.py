"""GELU and LayerNorm in the forms that exporters and people write them in."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from lampq_onnx.graph.edits import CountingPass
from lampq_onnx.importer.fuse import FuseGelu, FuseLayerNorm

WIDTH = 8
SCALE = np.array([1.5, -0.5, 0.0, 2.0, 1.0, 1.0005, 0.25, -3.0], np.float32)
SHIFT = np.array([0.1, 0.0, -1.0, 2.0, 0.5, 0.0, -0.25, 3.0], np.float32)
CONSTANTS = {
    "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "root": math.sqrt(2), "inverse": 1 / math.sqrt(2),
    "slope": math.sqrt(2 / math.pi), "cubic": 0.044715, "eps": 1e-6, "minus_half": -0.5, "count": float(WIDTH),
    "bessel": WIDTH / (WIDTH - 1), "last": np.array([-1], np.int64), "first": np.array([1], np.int64),
    "scale": SCALE, "shift": SHIFT, "twice": np.full(WIDTH, 2, np.float32),
}  # fmt: skip

ERF = {
    "x/2 (1+e)": "d=Div(x,root) e=Erf(d) a=Add(e,one) h=Mul(x,half) y=Mul(h,a)",
    "(1+e) x/2": "d=Div(x,root) e=Erf(d) a=Add(e,one) h=Mul(x,half) y=Mul(a,h)",
    "x (1+e) /2": "d=Div(x,root) e=Erf(d) a=Add(e,one) h=Mul(x,a) y=Mul(h,half)",
    "((1+e)/2) x": "d=Div(x,root) e=Erf(d) a=Add(one,e) h=Mul(half,a) y=Mul(h,x)",
    "1/2 ((1+e) x)": "d=Mul(x,inverse) e=Erf(d) a=Add(one,e) h=Mul(a,x) y=Mul(half,h)",
    "(1+e) x : 2": "d=Mul(inverse,x) e=Erf(d) a=Add(one,e) h=Mul(a,x) y=Div(h,two)",
    "x (1/2+e/2)": "d=Mul(x,inverse) e=Erf(d) a=Mul(e,half) b=Add(a,half) y=Mul(x,b)",
    "h+h e": "d=Mul(x,inverse) e=Erf(d) h=Mul(x,half) p=Mul(h,e) y=Add(h,p)",
    "h=x/2 first": "h=Mul(x,half) d=Mul(h,root) e=Erf(d) a=Add(one,e) y=Mul(h,a)",
}
TANH = {
    "x^3": "p=Pow(x,three) q=Mul(p,cubic) r=Add(x,q) s=Mul(r,slope) t=Tanh(s) u=Add(t,one) v=Mul(x,half) y=Mul(v,u)",
    "x x x": "p=Mul(x,x) o=Mul(p,x) q=Mul(cubic,o) r=Add(q,x) s=Mul(slope,r) t=Tanh(s) u=Add(one,t) v=Mul(u,half) "
    "y=Mul(x,v)",
    "factored": "p=Mul(x,x) q=Mul(cubic,p) r=Add(q,one) z=Mul(x,slope) s=Mul(z,r) t=Tanh(s) u=Add(t,one) v=Mul(x,u) "
    "y=Mul(v,half)",
}
CENTERED = "m=ReduceMean(x,last) d=Sub(x,m) p=Pow(d,two) v=ReduceMean(p,last) "
NORMS = {
    "as torch writes it": CENTERED + "w=Add(v,eps) s=Sqrt(w) q=Div(d,s) z=Mul(q,scale) y=Add(z,shift)",
    "no bias": CENTERED + "w=Add(v,eps) s=Sqrt(w) q=Div(d,s) y=Mul(scale,q)",
    "no scale": CENTERED + "w=Add(eps,v) s=Sqrt(w) q=Div(d,s) y=Add(shift,q)",
    "neither": CENTERED + "w=Add(v,eps) s=Sqrt(w) r=Reciprocal(s) y=Mul(d,r)",
    "power": CENTERED + "w=Add(v,eps) s=Pow(w,minus_half) q=Mul(d,s) z=Mul(q,scale) y=Add(z,shift)",
    "centered twice": "m=ReduceMean(x,last) d=Sub(x,m) c=Sub(x,m) p=Mul(c,c) v=ReduceMean(p,last) w=Add(v,eps) "
    "s=Sqrt(w) q=Div(d,s) z=Mul(q,scale) y=Add(z,shift)",
    "as TensorFlow writes it": CENTERED + "w=Add(v,eps) s=Sqrt(w) r=Reciprocal(s) f=Mul(r,scale) a=Mul(x,f) "
    "b=Mul(m,f) c=Sub(shift,b) y=Add(a,c)",
    "difference of squares": "m=ReduceMean(x,last) d=Sub(x,m) o=Mul(x,x) n=Mul(m,m) e=ReduceMean(o,last) v=Sub(e,n) "
    "w=Add(v,eps) s=Sqrt(w) q=Div(d,s) z=Mul(q,scale) y=Add(z,shift)",
    "sums": "n=ReduceSum(x,last) m=Div(n,count) d=Sub(x,m) p=Mul(d,d) o=ReduceSum(p,last) v=Div(o,count) w=Add(v,eps) "
    "s=Sqrt(w) q=Div(d,s) z=Mul(q,scale) y=Add(z,shift)",
}  # fmt: skip
OTHERS = {
    "root mean square": "p=Pow(x,two) v=ReduceMean(p,last) w=Add(v,eps) s=Sqrt(w) q=Div(x,s) y=Mul(q,scale)",
    "unbiased variance": CENTERED + "u=Mul(v,bessel) w=Add(u,eps) s=Sqrt(w) q=Div(d,s) z=Mul(q,scale) y=Add(z,shift)",
    "epsilon outside": CENTERED + "s=Sqrt(v) w=Add(s,eps) q=Div(d,w) z=Mul(q,scale) y=Add(z,shift)",
    "another axis": "m=ReduceMean(x,first) d=Sub(x,m) p=Pow(d,two) v=ReduceMean(p,first) w=Add(v,eps) s=Sqrt(w) "
    "q=Div(d,s) z=Mul(q,scale) y=Add(z,shift)",
    "sigmoid": "d=Mul(x,root) e=Tanh(d) a=Add(e,one) h=Mul(x,half) y=Mul(h,a)",
    "twice GELU": "d=Div(x,root) e=Erf(d) a=Add(e,one) y=Mul(x,a)",
    "vector factor": "d=Div(x,root) e=Erf(d) a=Add(e,one) h=Mul(x,twice) y=Mul(h,a)",
}
"""Functions that are neither."""


def make(text: str, shape: tuple[int, ...] = (), dtype: type[np.floating] = np.float32) -> ir.Model:
    """A graph of ``y = Operator(a,b)`` words from x (n, 5, WIDTH); its numbers have ``shape``."""
    lines = text.replace("ReduceMean(", "ReduceMean<keepdims=1>(").replace("ReduceSum(", "ReduceSum<keepdims=1>(")
    body = "\n".join(lines.split())
    head = '<ir_version: 10, opset_import: ["" : 20]>\ng (float[n,5,8] x) => (float[n,5,8] y)'
    proto = onnx.parser.parse_model(f"{head} {{\n{body}\n}}")
    read = {name for node in proto.graph.node for name in node.input}
    for name, value in CONSTANTS.items():
        if name in read:
            array = np.full(shape, dtype(value), np.float32) if isinstance(value, float) else value
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def fused(model: ir.Model, step: CountingPass) -> tuple[list[ir.Node], float]:
    """Nodes after the pass, and how far it moved the outputs."""
    x = np.random.default_rng(0).normal(size=(3, 5, WIDTH)).astype(np.float32)
    x[2] *= 1e-3  # where epsilon shows

    def run() -> np.ndarray:
        session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"x": x})[0])

    before = run()
    step(model)
    return list(model.graph), float(np.abs(run() - before).max())


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("form", [*ERF, *TANH])
def test_gelu_is_found_in_every_form(form: str, shape: tuple[int, ...]) -> None:
    nodes, change = fused(make({**ERF, **TANH}[form], shape), FuseGelu())
    assert [node.op_type for node in nodes] == ["Gelu"]
    assert ("approximate" in nodes[0].attributes) == (form in TANH)
    assert change < 1e-6


@pytest.mark.parametrize("form", [*ERF, *TANH])
def test_gelu_is_found_with_the_constants_of_half_precision(form: str) -> None:
    model = make({**ERF, **TANH}[form], dtype=np.float16)
    nodes, change = fused(model, FuseGelu(half=True))
    assert [node.op_type for node in nodes] == ["Gelu"]
    assert 0 < change < 1e-3


@pytest.mark.parametrize("form", NORMS)
def test_normalizations_are_found_with_their_very_constants(form: str) -> None:
    nodes, change = fused(make(NORMS[form]), FuseLayerNorm())
    assert [node.op_type for node in nodes] == ["LayerNormalization"]
    assert change < 2e-5
    (norm,) = nodes
    scale, shift = (value.const_value.numpy() for value in norm.inputs[1:])
    np.testing.assert_array_equal(scale, SCALE if "scale" in NORMS[form] else np.ones(WIDTH))
    np.testing.assert_array_equal(shift, SHIFT if "shift" in NORMS[form] else np.zeros(WIDTH))
    assert norm.attributes["epsilon"].as_float() == pytest.approx(1e-6)


@pytest.mark.parametrize("form", OTHERS)
def test_other_functions_are_left_alone(form: str) -> None:
    for step in (FuseGelu(), FuseGelu(half=True), FuseLayerNorm()):
        model = make(OTHERS[form])
        before = [node.op_type for node in model.graph]
        assert [node.op_type for node in fused(model, step)[0]] == before
        assert step.count == 0


def test_a_value_inside_that_is_read_elsewhere_keeps_the_part() -> None:
    model = make(ERF["x/2 (1+e)"])
    half = next(node.outputs[0] for node in model.graph if node.outputs[0].name == "h")
    half.type, half.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", 5, WIDTH])
    model.graph.outputs.append(half)
    step = FuseGelu()
    fused(model, step)
    assert step.count == 0


def test_a_scale_that_almost_is_another_is_not_taken_for_it() -> None:
    """Two factors in a row, the second near one: the joint scale is their product."""
    model = make(CENTERED + "w=Add(v,eps) s=Sqrt(w) q=Div(d,s) z=Mul(q,scale) o=Mul(z,twice) y=Add(o,shift)")
    near = np.full(WIDTH, 1.0005, np.float32)
    model.graph.initializers["twice"].const_value = ir.tensor(near, name="twice")
    nodes, change = fused(model, FuseLayerNorm())
    assert [node.op_type for node in nodes] == ["LayerNormalization"]
    assert change < 2e-5
    np.testing.assert_allclose(nodes[0].inputs[1].const_value.numpy(), SCALE * near, rtol=1e-5, atol=1e-6)
