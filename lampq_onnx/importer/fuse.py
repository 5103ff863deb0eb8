"""Activation functions and layer normalizations that exporters took apart, as single operators again.

Which primitives stand for them differs by exporter and version, so they are recognized by the numbers they compute.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.converter.passes.base import add_constant, take_over
from lampq_onnx.importer.regions import constants_of, evaluate, following, preceding, region

ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Neg", "Identity", "Cast"})
NORMALIZING = ELEMENTWISE | {"ReduceMean", "Sqrt", "Reciprocal"}
CURVES = frozenset({"Erf", "Tanh"})
"""What the forms of GELU are built around."""

GELU_OPSET = 20
NORM_OPSET = 17

TOLERANCE = 2e-6
"""Largest difference of a function from what it is taken for, relative to its largest value on the grid."""

DEFAULT_WIDTH = 8


_erf = np.vectorize(math.erf, otypes=[np.float64])


class FuseGelu(ir.passes.InPlacePass):
    """Replace parts that compute GELU, exactly or with tanh, by the operator.

    Attributes:
        count: of replacements.
    """

    count = 0

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass; does nothing before opset 20."""
        self.count = 0
        opset = model.opset_imports.get("", 0)
        if opset >= GELU_OPSET:
            for node in [n for n in model.graph if n.op_type in CURVES]:
                self.count += _fuse_gelu(model.graph, node, opset)
        return ir.passes.PassResult(model, modified=self.count > 0)


def _fuse_gelu(graph: ir.Graph, curve: ir.Node, opset: int) -> bool:
    grid = np.linspace(-8, 8, 321, dtype=np.float32)
    allowed = ELEMENTWISE | {curve.op_type}
    assert curve.inputs[0] is not None
    for source in reversed(preceding(curve.inputs[0], ELEMENTWISE, 8)):
        for result in reversed(following(curve.outputs[0], ELEMENTWISE, 4)):
            nodes = region(result, source, allowed)
            if nodes is None or curve not in nodes or any(c.size != 1 for c in constants_of(nodes)):
                continue
            kind = _gelu_kind(grid, evaluate(nodes, source, result, grid, opset))
            if kind is not None:
                attributes = {"approximate": kind} if kind != "none" else {}
                _replace(graph, nodes, result, ir.node("Gelu", [source], attributes))
                return True
    return False


def _gelu_kind(x: npt.NDArray[np.float32], found: npt.NDArray[np.float32]) -> str | None:
    if found.shape != x.shape:
        return None
    wide = x.astype(np.float64)
    forms = {
        "none": 0.5 * wide * (1 + _erf(wide / math.sqrt(2))),
        "tanh": 0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))),
    }
    return next((kind for kind, form in forms.items() if np.abs(found - form).max() <= TOLERANCE * 8), None)


class FuseLayerNorm(ir.passes.InPlacePass):
    """Replace parts that normalize the last axis by LayerNormalization.

    Attributes:
        count: of replacements.
    """

    count = 0

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass; does nothing before opset 17."""
        self.count = 0
        opset = model.opset_imports.get("", 0)
        if opset >= NORM_OPSET:
            for node in [n for n in model.graph if n.op_type == "ReduceMean"]:
                if node.graph is not None:  # not removed by a replacement before
                    self.count += _fuse_norm(model.graph, node, opset)
        return ir.passes.PassResult(model, modified=self.count > 0)


def _fuse_norm(graph: ir.Graph, mean: ir.Node, opset: int) -> bool:
    source = mean.inputs[0]
    assert source is not None
    rank = None if source.shape is None else len(source.shape)
    last = None if source.shape is None else source.shape[-1]
    for result in reversed(following(source, NORMALIZING, 10)):
        nodes = region(result, source, NORMALIZING)
        if nodes is None or mean not in nodes or sum(n.op_type == "ReduceMean" for n in nodes) < 2:
            continue
        vectors = [c.size for c in constants_of(nodes) if c.dtype == np.float32 and c.size > 1]
        width = last if isinstance(last, int) else max(vectors, default=DEFAULT_WIDTH)
        if any(size != width for size in vectors):
            continue
        for dims in (rank,) if rank else (3, 2, 4):
            norm = _norm_of(nodes, source, result, dims, width, opset)
            if norm is not None:
                scale, bias, epsilon = norm
                values = [
                    add_constant(graph, f"{result.name}.norm.scale", scale),
                    add_constant(graph, f"{result.name}.norm.bias", bias),
                ]
                node = ir.node("LayerNormalization", [source, *values], {"epsilon": epsilon, "axis": -1})
                _replace(graph, nodes, result, node)
                return True
    return False


Norm = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], float]


def _norm_of(
    nodes: list[ir.Node], source: ir.Value, result: ir.Value, rank: int, width: int, opset: int
) -> Norm | None:
    """Scale, bias and epsilon of a normalization that computes the same; None if there is none."""
    lead = [1] * (rank - 2)
    random = np.random.default_rng(0)

    def compute(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        try:
            found = evaluate(nodes, source, result, rows.astype(np.float32).reshape(*lead, *rows.shape), opset)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, np.exceptions.AxisError):
            return None  # of another rank, or reduced along another axis
        return found.reshape(rows.shape).astype(np.float64) if found.size == rows.size else None

    rows = random.normal(size=(6, width))
    # Rows of another size show epsilon, which only matters where the variance is small.
    rows[3:] *= 3e-3
    found, floor = compute(rows), compute(np.zeros((6, width)))
    if found is None or floor is None or not np.isfinite(found).all():
        return None
    bias = floor[0]
    for epsilon in _epsilons(nodes):
        centered = rows - rows.mean(-1, keepdims=True)
        normal = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon)
        scale = ((found - bias) * normal).sum(0) / (normal**2).sum(0)
        if np.abs(normal * scale + bias - found).max() <= 1e-4 * max(np.abs(found).max(), 1e-30):
            return _exact(nodes, scale, 1.0), _exact(nodes, bias, 0.0), epsilon
    return None


def _epsilons(nodes: list[ir.Node]) -> Iterator[float]:
    for constant in constants_of(nodes):
        if constant.size == 1 and 0 < float(constant.reshape(-1)[0]) < 1e-2:
            yield float(constant.reshape(-1)[0])


def _exact(nodes: list[ir.Node], values: npt.NDArray[np.float64], neutral: float) -> npt.NDArray[np.float32]:
    """The constant of the graph, or the neutral number, that the measured values are up to rounding."""
    known = [c.reshape(-1) for c in constants_of(nodes) if c.dtype == np.float32 and c.size == values.size]
    for candidate in (*known, np.full(values.size, neutral, np.float32)):
        if np.abs(candidate - values).max() <= 1e-3 * max(np.abs(values).max(), 1e-6):
            return np.array(candidate, np.float32)
    return values.astype(np.float32)


def _replace(graph: ir.Graph, nodes: list[ir.Node], result: ir.Value, node: ir.Node) -> None:
    graph.insert_before(nodes[-1], node)
    name = result.name
    take_over(result, node.outputs[0])
    node.name = f"{name}.{node.op_type}"
    graph.remove(list(reversed(nodes)), safe=True)
