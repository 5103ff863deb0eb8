"""Finds where the input channels of a layer can be scaled and shifted without changing the model.

There are three kinds of places. They are tried in this order for every layer in the budget:

1. norm: the layer reads a LayerNorm, and only layers in the budget read that LayerNorm. Scale and shift go into the
   LayerNorm's own weight and bias.
2. linear: another layer of the same block produces the channels, and only linear operations lie in between. Examples
   are the path from the values of an attention to its output projection (each row of the softmax sums to 1, so a
   constant passes too) and the path from the linear half of a gated MLP to its last layer. The scale goes into the rows
   of the producing layer.
3. multiply: neither is possible, as after GELU, which does not commute with a scale. One elementwise Mul before the
   layer applies the scale.

Kinds 1 and 2 are guesses from the structure of the graph. A trial with random factors confirms them: the logits must
not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch

from lampq_onnx.frontend.equalization.fold import Equalization, applied
from lampq_onnx.frontend.equalization.link import Link
from lampq_onnx.frontend.shared.forward import hooked
from lampq_onnx.frontend.shared.model_layers import Exported, ModelLayer
from lampq_onnx.frontend.simulation.chain import BlockChain, States
from lampq_onnx.graph.keys import UNIT_KEY
from lampq_onnx.graph.nodes import users
from lampq_onnx.graph.roles import SHAPE_OPERATORS

TRIAL_TOLERANCE = 1e-4
"""Largest relative change in a trial, of logits and outputs of layers; wrong guesses change these by percents."""

ROWS = 64
"""About the number of rows of a layer's output that a trial compares."""


def find_links(exported: Exported, model: torch.nn.Module, chain: BlockChain, images: torch.Tensor) -> tuple[Link, ...]:
    """Find one link for every Linear layer in the budget; layers with the same input share a link.

    Args:
        exported: float graph and layers.
        model: the float model.
        chain: its blocks.
        images: float32 (n, c, h, w), a few real images for the trials.
    """
    counts = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    linear = [u for u in exported.layers if not u.fixed and isinstance(u.module, torch.nn.Linear)]
    own = [u for u in linear if _owned(u.module, counts)]
    found: dict[str, Link] = {}
    trial = _Trial(model, chain, images, own)
    for link in _norm_links(exported, model, own, counts, images):
        if trial.holds(link):
            found |= {layer.name: link for layer in link.readers}
    before = _layers_before(exported.model)
    for block in chain.blocks:
        members = [u for u in block.layers if u in own]
        for layer in members:
            if layer.name not in found:
                sources = [u for u in members if u.name in before.get(layer.name, ())]
                for link in _linear_links(layer, sources):
                    if trial.holds(link):
                        found[layer.name] = link
                        break
    for layer in own:
        found.setdefault(layer.name, Link("multiply", (layer,)))
    return tuple(dict.fromkeys(found.values()))


def _owned(module: torch.nn.Module, counts: Counter[int]) -> bool:
    return all(counts[id(p)] == 1 for p in module._parameters.values() if p is not None)


def _norm_links(
    exported: Exported, model: torch.nn.Module, layers: Sequence[ModelLayer], counts: Counter[int], images: torch.Tensor
) -> Iterator[Link]:
    """LayerNorms whose output tensor is the input of layers, and that nothing else in the graph reads."""
    outputs: dict[int, torch.nn.Module] = {}
    alive: list[torch.Tensor] = []
    calls: Counter[torch.nn.Module] = Counter()
    readers: dict[torch.nn.Module, list[ModelLayer]] = {}

    def made(module: torch.nn.Module, _: Any, output: torch.Tensor) -> None:
        calls[module] += 1
        outputs[id(output)] = module
        alive.append(output)

    def read(layer: ModelLayer) -> Any:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            norm = outputs.get(id(inputs[0]))
            if norm is not None:
                readers.setdefault(norm, []).append(layer)

        return hook

    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm) and m.weight is not None]
    handles = [norm.register_forward_hook(made) for norm in norms]
    handles += [layer.module.register_forward_pre_hook(read(layer)) for layer in layers]
    try:
        with torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    alone = _read_by_layers_alone(exported.model)
    for norm, members in readers.items():
        if calls[norm] > 1 or not _owned(norm, counts) or not all(layer.name in alone for layer in members):
            continue
        if alone[members[0].name] == {layer.name for layer in members}:
            shift = norm.bias is not None and all(layer.module.bias is not None for layer in members)
            yield Link("norm", tuple(members), norm=norm, shift=shift)


def _read_by_layers_alone(model: ir.Model) -> dict[str, set[str]]:
    """Layer -> all layers that read the same LayerNormalization, if only layers read it."""
    found: dict[str, set[str]] = {}
    for node in model.graph:
        if node.op_type != "LayerNormalization" or node.outputs[0].is_graph_output():
            continue
        readers = [reader for reader in users(node.outputs[0]) if reader.op_type not in SHAPE_OPERATORS]
        names = {reader.metadata_props.get(UNIT_KEY, "") for reader in readers}
        if "" not in names:
            found |= dict.fromkeys(names, names)
    return found


def _layers_before(model: ir.Model) -> dict[str, set[str]]:
    """Layer -> layers that its input is computed from, with no other layer and no Add of two results in between.

    After such an Add, a factor on one operand is no longer a factor on the sum.
    """
    found: dict[str, set[str]] = {}
    for node in model.graph:
        name = node.metadata_props.get(UNIT_KEY)
        if name is None:
            continue
        reached: set[str] = set()
        seen: set[ir.Node] = set()
        front = [node.inputs[0]]
        while front:
            value = front.pop()
            producer = None if value is None else value.producer()
            if producer is None or producer in seen or producer.op_type in SHAPE_OPERATORS:
                continue
            seen.add(producer)
            if UNIT_KEY in producer.metadata_props:
                reached.add(producer.metadata_props[UNIT_KEY])
            elif producer.op_type != "Add" or any(v is not None and v.const_value is not None for v in producer.inputs):
                front.extend(producer.inputs)
        found[name] = reached
    return found


def _linear_links(layer: ModelLayer, sources: Sequence[ModelLayer]) -> Iterator[Link]:
    """Row ranges of ``sources`` that may produce the layer's input; the last rows (the values) come first."""
    channels = int(layer.module.weight.shape[1])
    for source in sources:
        rows = int(source.module.weight.shape[0])
        if source is layer or rows % channels:
            continue
        for start in reversed(range(0, rows, channels)):
            movable = source.module.bias is not None and layer.module.bias is not None
            for shift in (True, False) if movable else (False,):
                yield Link("linear", (layer,), source=source, start=start, shift=shift)


class _Changed(Exception):
    """Ends a trial whose guess was wrong."""


class _Trial:
    """Checks a link: applies random factors, compares what the readers and the model answer, and restores the model.

    The readers' own outputs are compared as well, because a layer that adds little hardly changes the logits. If the
    link lies in one block, only the blocks from there on are computed.

    Args:
        model: the float model.
        chain: its blocks.
        images: images, of which one is used: a wrong guess changes the answer to any.
        layers: layers that links may have as readers; each is called once in a pass.
    """

    def __init__(
        self, model: torch.nn.Module, chain: BlockChain, images: torch.Tensor, layers: Sequence[ModelLayer]
    ) -> None:
        self._model = model
        self._chain = chain
        self._images = images[:1]
        self._members = [set(block.module.modules()) for block in chain.blocks]
        self._states = chain.states([self._images])
        self._rows: dict[str, torch.Tensor] = {}

        def keep(layer: ModelLayer) -> Any:
            return lambda _, __, output: self._rows.update({layer.name: _some_rows(output)})

        with hooked(layers, keep):
            self._wanted = self._logits(None)

    def holds(self, link: Link) -> bool:
        """Whether the model answers as before with the link's channels scaled and shifted."""
        generator = torch.Generator().manual_seed(0)
        scale = 0.5 + 1.5 * torch.rand(link.channels, generator=generator)
        shift = torch.randn(link.channels, generator=generator) * (0.5 if link.shift else 0.0)
        start = next((i for i, own in enumerate(self._members) if own.issuperset(link.modules)), None)
        if start is not None:
            self._states = self._states_of(start)

        def compare(layer: ModelLayer) -> Any:
            def hook(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
                if not _same(_some_rows(output), self._rows[layer.name]):
                    raise _Changed

            return hook

        with applied(Equalization(link, scale, shift)), hooked(link.readers, compare):
            try:
                return _same(self._logits(start), self._wanted)
            except _Changed:
                return False

    def _states_of(self, start: int) -> States:
        """Inputs of a block in the model as it was; those of one block are held at a time."""
        states = self._states if self._states.start <= start else self._chain.states([self._images])
        while states.start < start:
            states = self._chain.advance(states)
        return states

    @torch.no_grad()
    def _logits(self, start: int | None) -> torch.Tensor:
        """Outputs, computed from a block on, whose inputs are held; None: from the image on."""
        if start is None:
            found: torch.Tensor = self._model(self._images)
            return found.double()
        (pair,) = self._states
        return self._chain.resume(start, *pair).double()


def _some_rows(output: torch.Tensor) -> torch.Tensor:
    """About `ROWS` rows of the output of a layer, float64."""
    rows = output.reshape(-1, output.shape[-1])
    return rows[:: max(1, len(rows) // ROWS)].double()


def _same(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return bool((found - wanted).norm() <= TRIAL_TOLERANCE * wanted.norm())
