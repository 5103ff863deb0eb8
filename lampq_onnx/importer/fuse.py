"""Replaces decomposed activation functions and layer normalizations by single operators.

The primitives differ between exporters and versions, so the functions are recognized by the numbers they compute.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lampq_onnx.graph.edits import CountingPass, add_constant, place, take_over
from lampq_onnx.graph.refusals import Outcome, Refused
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


@dataclass(frozen=True)
class Miss:
    """A part that has the form of the function, and is not replaced.

    Attributes:
        distance: how far it is from the function; the reason of the nearest part is reported.
        reason: completes the sentence "not done here, because ...".
    """

    distance: float
    reason: str


Match = TypeVar("Match")
"""What a fusion finds out about a part that it replaces."""


class Fusion(CountingPass, Generic[Match]):
    """Replace parts of a graph that compute a known function by one operator.

    Attributes:
        count: number of replacements.
        centers: operators in the middle of such a part.
        allowed: other operators that it may contain.
        opset: first opset with the replacing operator; the pass does nothing in older graphs.
    """

    centers: ClassVar[frozenset[str]]
    allowed: ClassVar[frozenset[str]]
    opset: ClassVar[int]

    def apply(self, model: ir.Model) -> int:
        """Run the pass on a model."""
        nodes = [node for node in model.graph if node.op_type in self.centers]
        opset = model.opset_imports.get("", 0)
        if opset < self.opset:
            old = Refused(f"the graph has opset {opset}, and the operator came with opset {self.opset}")
            return self.settle("", old if nodes else False)
        # An earlier replacement may have removed a node of this list.
        return sum(self.settle(place(n), self._fuse(model.graph, n, opset)) for n in nodes if n.graph is not None)

    def _fuse(self, graph: ir.Graph, center: ir.Node, opset: int) -> Outcome:
        misses = []
        for source in self.sources(center):
            for result in reversed(following(center.outputs[0], self.allowed, AFTER)):
                part = region(result, source, self.allowed | {center.op_type})
                if part is None or center not in part.nodes:
                    continue
                found = self.match(part, opset)
                if isinstance(found, Miss):
                    misses.append(found)
                elif found is not None and part.shared:
                    misses.append(Miss(0.0, "other nodes, or an output of the graph, read a value inside of it too"))
                elif found is not None:
                    _replace(graph, part, self.operator(part, found))
                    return True
        return Refused(min(misses, key=lambda miss: miss.distance).reason) if misses else False

    @abc.abstractmethod
    def sources(self, center: ir.Node) -> Iterable[ir.Value]:
        """Values that the part around ``center`` may be a function of, the likeliest first."""

    @abc.abstractmethod
    def match(self, part: Region, opset: int) -> Match | Miss | None:
        """Compare a part with the function; None if it does not have the form of the function."""

    @abc.abstractmethod
    def operator(self, part: Region, match: Match) -> ir.Node:
        """Create a node that computes the same from ``part.source``."""


class FuseGelu(Fusion[dict[str, str]]):
    """Replace GELU in its exact form or with tanh by one operator.

    Args:
        half: whether constants may have been rounded to half precision.
    """

    purpose = "one operator for a GELU"
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

    def match(self, part: Region, opset: int) -> dict[str, str] | Miss | None:
        """Return the attributes of the Gelu; None if the part is not a product of its input and one curve."""
        kinds = [node.op_type for node in part.nodes]
        if not part.branches() or not {"Mul", "Div"}.intersection(kinds) or sum(kind in CURVES for kind in kinds) > 1:
            return None
        if any(constant.size != 1 for constant in part.constants()):
            return Miss(math.inf, "a constant in it is not a single number")
        rank = 1 if part.source.shape is None else len(part.source.shape)
        x = np.linspace(-8, 8, 321, dtype=np.float32).reshape(*[1] * (rank - 1), -1)
        found = part.evaluate(x, opset)
        if found.shape != x.shape:
            return Miss(math.inf, "its constants have more dimensions than its input")
        wide = x.astype(np.float64)
        attributes: dict[str, str] = {}
        if "Erf" in kinds:
            wanted = 0.5 * wide * (1 + _erf(wide / math.sqrt(2)))
        else:
            inner = math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)
            wanted, attributes = 0.5 * wide * (1 + np.tanh(inner)), {"approximate": "tanh"}
        if not np.isfinite(found).all():
            return Miss(math.inf, "its function is not finite for all inputs up to 8, as GELU is")
        distance = float(np.abs(found - wanted).max())
        if distance > self._bound:
            return Miss(
                distance,
                f"its function differs from GELU by {distance:.1g} for inputs up to 8, and {self._bound:g} is allowed",
            )
        return attributes

    def operator(self, part: Region, match: dict[str, str]) -> ir.Node:
        """Create a Gelu node of the matching kind."""
        return ir.node("Gelu", [part.source], match)


Norm = tuple[Vector, Vector, float]
"""Scale, bias and epsilon of a normalization."""


class FuseLayerNorm(Fusion[Norm]):
    """Replace normalizations of the last axis, with or without scale and bias, by LayerNormalization."""

    purpose = "one operator for a layer normalization"
    centers = MEANS
    allowed = ELEMENTWISE | MEANS | {"Sqrt", "Reciprocal"}
    opset = 17

    def sources(self, center: ir.Node) -> Iterable[ir.Value]:
        """The value that is averaged."""
        assert center.inputs[0] is not None
        return [center.inputs[0]]

    def match(self, part: Region, opset: int) -> Norm | Miss | None:
        """Measure scale and bias; None if the part has no mean and root of a second mean."""
        if sum(node.op_type in MEANS for node in part.nodes) < 2 or not any(map(_is_root, part.nodes)):
            return None
        shape = part.source.shape
        last = None if shape is None else shape[-1]
        vectors = [c.size for c in part.constants() if c.dtype == np.float32 and c.size > 1]
        width = last if isinstance(last, int) else max(vectors, default=DEFAULT_WIDTH)
        if any(size != width for size in vectors):
            return Miss(math.inf, "a constant in it has another length than the last axis of its input")
        misses = []
        for rank in (3, 2, 4) if shape is None else (len(shape),):
            norm = _norm_of(part, rank, width, opset)
            if isinstance(norm, tuple):
                return norm
            misses += [] if norm is None else [norm]
        return min(misses, key=lambda miss: miss.distance, default=None)

    def operator(self, part: Region, match: Norm) -> ir.Node:
        """Create a LayerNormalization with the measured scale and bias."""
        scale, bias, epsilon = match
        graph = part.nodes[-1].graph
        assert isinstance(graph, ir.Graph)
        inputs = [
            add_constant(graph, f"{part.result.name}.norm.scale", scale),
            add_constant(graph, f"{part.result.name}.norm.bias", bias),
        ]
        return ir.node("LayerNormalization", [part.source, *inputs], {"epsilon": epsilon, "axis": -1})


def _norm_of(part: Region, rank: int, width: int, opset: int) -> Norm | Miss | None:
    """Scale, bias and epsilon of a normalization that computes the same; None if the result has another size."""
    # Another axis of length 1 would hide that the part averages over it.
    lead = [] if rank < 3 else [*[1] * (rank - 3), 2]

    def compute(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
        try:
            found = part.evaluate(rows.astype(np.float32).reshape(*lead, -1, width), opset)
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError, np.exceptions.AxisError):
            return None  # the part needs another rank, or reduces along another axis
        return found.reshape(rows.shape).astype(np.float64) if found.size == rows.size else None

    rows = np.random.default_rng(0).normal(size=(6, width))
    # Rows of small numbers reveal epsilon, which only matters if the variance is small.
    rows[3:] *= 3e-3
    found, floor = compute(rows), compute(np.zeros((6, width)))
    if found is None or floor is None or not np.isfinite(found).all():
        return None
    bias, size = floor[0], max(np.abs(found).max(), 1e-30)
    nearest = Miss(math.inf, "it adds no small positive number to the variance")
    for epsilon in _epsilons(part):
        centered = rows - rows.mean(-1, keepdims=True)
        normal = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + epsilon)
        scale = ((found - bias) * normal).sum(0) / (normal**2).sum(0)
        distance = float(np.abs(normal * scale + bias - found).max() / size)
        if distance <= NORM_BOUND:
            return _exact(part, scale, 1.0), _exact(part, bias, 0.0), epsilon
        if distance < nearest.distance:
            nearest = Miss(
                distance,
                f"it differs from a normalization of the last axis by {distance:.1g} of its largest value, and "
                f"{NORM_BOUND:g} is allowed",
            )
    return nearest


def _is_root(node: ir.Node) -> bool:
    power = node.inputs[1].const_value if node.op_type == "Pow" and node.inputs[1] is not None else None
    return node.op_type == "Sqrt" or (power is not None and bool((np.abs(power.numpy()) < 1).all()))


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
