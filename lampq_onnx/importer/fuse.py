"""Replaces decomposed activation functions and layer normalizations by single operators.

The primitives differ between exporters and versions, so the functions are recognized by the numbers they compute.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.graph.edits import CountingPass, add_constant, take_over
from lampq_onnx.importer.regions import Region, following, preceding, region

ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Neg", "Identity", "Cast"})
MEANS = frozenset({"ReduceMean", "ReduceSum"})
CURVES = frozenset({"Erf", "Tanh"})
"""Operators in the middle of every form of GELU."""

BEFORE, AFTER = 8, 10
"""Largest number of nodes before and after the operator in the middle."""

GELU_BOUND = 1.6e-5
"""Largest difference of a function from GELU for inputs up to 8."""

HALF_GELU_BOUND = 2e-3
"""Largest difference if the constants of the function were rounded to half precision."""

NORM_BOUND = 1e-4
"""Largest difference from a normalization, relative to its largest value."""

SAME_BOUND = 2e-5
"""Largest difference at which a measured constant equals one of the graph, relative to the largest value."""

DEFAULT_WIDTH = 8

Vector = npt.NDArray[np.float32]

_erf = np.vectorize(math.erf, otypes=[np.float64])


class Fusion(CountingPass):
    """Replace parts of a graph that compute a known function by one operator.

    Attributes:
        count: number of replacements.
        centers: operators in the middle of such a part.
        allowed: other operators that it may contain.
        opset: first opset with the replacing operator; the pass does nothing in older graphs.
    """

    centers: frozenset[str]
    allowed: frozenset[str]
    opset: int

    def apply(self, model: ir.Model) -> int:
        """Run the pass on a model."""
        if model.opset_imports.get("", 0) < self.opset:
            return 0
        nodes = [node for node in model.graph if node.op_type in self.centers]
        # An earlier replacement may have removed a node of this list.
        return sum(node.graph is not None and self._fuse(model, node) for node in nodes)

    def _fuse(self, model: ir.Model, center: ir.Node) -> bool:
        opset = model.opset_imports[""]
        for source in self.sources(center):
            for result in reversed(following(center.outputs[0], self.allowed, AFTER)):
                part = region(result, source, self.allowed | {center.op_type})
                operator = None if part is None or center not in part.nodes else self.operator(part, opset)
                if part is not None and operator is not None:
                    _replace(model.graph, part, operator)
                    return True
        return False

    @abc.abstractmethod
    def sources(self, center: ir.Node) -> Iterable[ir.Value]:
        """Values that the part around ``center`` may be a function of, the likeliest first."""

    @abc.abstractmethod
    def operator(self, part: Region, opset: int) -> ir.Node | None:
        """A node that computes the same from ``part.source``; None if the part is another function."""


class FuseGelu(Fusion):
    """Replace GELU in its exact form or with tanh by one operator.

    Args:
        half: whether constants may have been rounded to half precision.
    """

    centers = CURVES
    allowed = ELEMENTWISE
    opset = 20

    def __init__(self, *, half: bool = False) -> None:
        super().__init__()
        self._bound = HALF_GELU_BOUND if half else GELU_BOUND

    def sources(self, center: ir.Node) -> Iterable[ir.Value]:
        """Values that the input of Erf or Tanh is computed from, the farthest first."""
        assert center.inputs[0] is not None
        return reversed(preceding(center.inputs[0], ELEMENTWISE, BEFORE))

    def operator(self, part: Region, opset: int) -> ir.Node | None:
        """A Gelu node of the matching kind; None if the part is not GELU."""
        if any(constant.size != 1 for constant in part.constants()):
            return None
        rank = 1 if part.source.shape is None else len(part.source.shape)
        x = np.linspace(-8, 8, 321, dtype=np.float32).reshape(*[1] * (rank - 1), -1)
        found = part.evaluate(x, opset)
        if found.shape != x.shape:
            return None
        wide = x.astype(np.float64)
        if any(node.op_type == "Erf" for node in part.nodes):
            wanted, attributes = 0.5 * wide * (1 + _erf(wide / math.sqrt(2))), {}
        else:
            inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
            wanted, attributes = 0.5 * wide * (1 + np.tanh(inner)), {"approximate": "tanh"}
        if not np.abs(found - wanted).max() <= self._bound:
            return None
        return ir.node("Gelu", [part.source], attributes)


class FuseLayerNorm(Fusion):
    """Replace normalizations of the last axis, with or without scale and bias, by LayerNormalization."""

    centers = MEANS
    allowed = ELEMENTWISE | MEANS | {"Sqrt", "Reciprocal"}
    opset = 17

    def sources(self, center: ir.Node) -> Iterable[ir.Value]:
        """The value that is averaged."""
        assert center.inputs[0] is not None
        return [center.inputs[0]]

    def operator(self, part: Region, opset: int) -> ir.Node | None:
        """A LayerNormalization with the measured scale and bias of the part; None if it is another function."""
        if sum(node.op_type in MEANS for node in part.nodes) < 2:
            return None
        shape = part.source.shape
        last = None if shape is None else shape[-1]
        vectors = [c.size for c in part.constants() if c.dtype == np.float32 and c.size > 1]
        width = last if isinstance(last, int) else max(vectors, default=DEFAULT_WIDTH)
        if any(size != width for size in vectors):
            return None
        for rank in (3, 2, 4) if shape is None else (len(shape),):
            norm = _norm_of(part, rank, width, opset)
            if norm is not None:
                graph, name = part.nodes[-1].graph, part.result.name
                assert isinstance(graph, ir.Graph)
                scale, bias, epsilon = norm
                inputs = [
                    add_constant(graph, f"{name}.norm.scale", scale),
                    add_constant(graph, f"{name}.norm.bias", bias),
                ]
                return ir.node("LayerNormalization", [part.source, *inputs], {"epsilon": epsilon, "axis": -1})
        return None


def _norm_of(part: Region, rank: int, width: int, opset: int) -> tuple[Vector, Vector, float] | None:
    """Scale, bias and epsilon of a normalization that computes the same; None if there is none."""
    lead = [1] * (rank - 2)

    def compute(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        try:
            found = part.evaluate(rows.astype(np.float32).reshape(*lead, *rows.shape), opset)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, np.exceptions.AxisError):
            return None  # the part needs another rank, or reduces along another axis
        return found.reshape(rows.shape).astype(np.float64) if found.size == rows.size else None

    rows = np.random.default_rng(0).normal(size=(6, width))
    # Rows of small numbers reveal epsilon, which only matters if the variance is small.
    rows[3:] *= 3e-3
    found, floor = compute(rows), compute(np.zeros((6, width)))
    if found is None or floor is None or not np.isfinite(found).all():
        return None
    bias = floor[0]
    for epsilon in _epsilons(part):
        centered = rows - rows.mean(-1, keepdims=True)
        normal = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon)
        scale = ((found - bias) * normal).sum(0) / (normal**2).sum(0)
        if np.abs(normal * scale + bias - found).max() <= NORM_BOUND * max(np.abs(found).max(), 1e-30):
            return _exact(part, scale, 1.0), _exact(part, bias, 0.0), epsilon
    return None


def _epsilons(part: Region) -> Iterator[float]:
    for constant in part.constants():
        if constant.size == 1 and 0 < float(constant.reshape(-1)[0]) < 1e-2:
            yield float(constant.reshape(-1)[0])


def _exact(part: Region, values: npt.NDArray[np.float64], neutral: float) -> Vector:
    """The constant of the graph, or the neutral number, that equals the measured values up to rounding."""
    known = [c.reshape(-1) for c in part.constants() if c.dtype == np.float32 and c.size == values.size]
    candidates = [*known, np.full(values.size, neutral, np.float32)]
    distances = [np.abs(candidate - values).max() for candidate in candidates]
    best = int(np.argmin(distances))
    if distances[best] <= SAME_BOUND * max(np.abs(values).max(), 1.0):
        return np.array(candidates[best], np.float32)
    return values.astype(np.float32)


def _replace(graph: ir.Graph, part: Region, node: ir.Node) -> None:
    graph.insert_before(part.nodes[-1], node)
    name = part.result.name
    take_over(part.result, node.outputs[0])
    node.name = f"{name}.{node.op_type}"
    graph.remove(list(reversed(part.nodes)), safe=True)
