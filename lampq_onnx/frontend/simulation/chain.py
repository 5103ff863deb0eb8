"""Transformer blocks in order, so that a change in one block does not recompute the blocks before it.

A stage that tries many settings of one layer keeps the inputs of that layer's block for all its images, and computes
only from that block on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lampq_onnx.artifacts.image_size import are_large
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.onnx_model.model import OnnxModel
from lampq_onnx.frontend.shared.forward import forward_of
from lampq_onnx.frontend.shared.isolation import copied
from lampq_onnx.frontend.shared.model_layers import ModelLayer
from lampq_onnx.frontend.simulation.class_row import ClassRow, find_class_row

RESUMED = 1e-4
"""Largest relative difference (L2) between whole and resumed passes that float rounding explains."""


@dataclass(frozen=True)
class Block:
    """One block of the chain.

    Attributes:
        name: path of the module; empty for the whole model.
        module: the block; if blocks can be skipped, one of its arguments has the shape of its output.
        layers: layers inside, in the order they compute.
        carried: position of the argument that has the shape of the output.
    """

    name: str
    module: torch.nn.Module
    layers: tuple[ModelLayer, ...]
    carried: int = 0


@dataclass(frozen=True)
class States:
    """Inputs of one block for some images.

    Attributes:
        start: index of the block.
        batches: positional arguments of the block, batch by batch.
        sizes: number of images in each batch.
    """

    start: int
    batches: tuple[tuple[Any, ...], ...]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.sizes)

    def first(self, count: int) -> States:
        """The first ``count`` batches."""
        return States(self.start, self.batches[:count], self.sizes[:count])

    def __iter__(self) -> Iterator[tuple[tuple[Any, ...], int]]:
        return zip(self.batches, self.sizes, strict=True)


class _Reached(Exception):
    """Stops a forward pass once the wanted module is reached."""


def _stop(*_: object) -> None:
    raise _Reached


class BlockChain:
    """The transformer blocks of one model.

    If a model has no blocks that can be separated, the whole model is the only block: everything works, but no time is
    saved.

    Args:
        model: the model in evaluation mode.
        layers: its layers.
        example: float32 (n, c, h, w), one small batch of images.

    Attributes:
        blocks: blocks in the order they compute.
        before: layers before the blocks.
        after: layers after the blocks.
        class_row: layers of the last block of which one row is enough.
    """

    def __init__(self, model: torch.nn.Module, layers: Sequence[ModelLayer], example: torch.Tensor) -> None:
        self.model = model
        self._image = torch.zeros_like(example[:1])
        self.blocks = _find_blocks(model, layers, example)
        resumed = self._resumed(example)
        self.blocks = self.blocks[:resumed] if resumed else (_whole(model, self.blocks, layers),)
        inside = {layer.name for block in self.blocks for layer in block.layers}
        outside = [layer for layer in layers if layer.name not in inside]
        self.before = tuple(layer for layer in outside if layer.type == "patch_embed")
        self.after = tuple(layer for layer in outside if layer.type != "patch_embed")
        self.class_row = self._class_row(example)

    def __len__(self) -> int:
        return len(self.blocks)

    @torch.no_grad()
    def _resumed(self, example: torch.Tensor) -> int:
        """Number of leading blocks whose inputs alone determine the outputs, without values that bypass them.

        All later blocks then belong to the part after the last of these blocks.
        """
        if len(self.blocks) == 1:
            return 1
        # A resumed pass runs on blank images, so the images of this comparison must not be blank.
        images = torch.randn(example[:1].shape, generator=torch.Generator().manual_seed(0)).to(example)
        wanted = self.model(images).float()
        for index in range(len(self.blocks)):
            found = self.resume(index, self._inputs_of(index, images, None), 1)
            if not (found - wanted).norm() <= RESUMED * wanted.norm():
                return index
        return len(self.blocks)

    @torch.no_grad()
    def _class_row(self, example: torch.Tensor) -> ClassRow:
        """The layers of the last block of which one row is enough.

        None are looked for if images are large: the comparison needs two in a pass.
        """
        if len(self.blocks) == 1 or are_large(example.shape):
            return ClassRow()
        last = len(self.blocks) - 1
        shape = (2, *example.shape[1:])
        images = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(example)
        arguments = self._inputs_of(last, images, None)
        return find_class_row(self.blocks[last].layers, lambda: self.resume(last, arguments, len(images)))

    def index_of(self, layer: ModelLayer) -> int:
        """Index of the block that contains a layer.

        Layers before the blocks count as part of the first one, layers after the blocks as part of the last one.
        """
        for index, block in enumerate(self.blocks):
            if any(inner.name == layer.name for inner in block.layers):
                return index
        return 0 if layer.type == "patch_embed" else len(self.blocks) - 1

    @torch.no_grad()
    def states(self, batches: Sequence[torch.Tensor], index: int = 0) -> States:
        """Compute the inputs of block ``index``, with the model in its current state.

        Args:
            batches: images float32 (n, c, h, w), batch by batch.
            index: index of the block.
        """
        found = [self._inputs_of(index, batch, None) for batch in batches]
        return States(index, tuple(found), tuple(len(batch) for batch in batches))

    @torch.no_grad()
    def advance(self, states: States) -> States:
        """Compute the inputs of the next block, with the model in its current state."""
        found = [self._inputs_of(states.start + 1, pair, states.start) for pair in states]
        return States(states.start + 1, tuple(found), states.sizes)

    def logits(self, states: States) -> torch.Tensor:
        """Outputs of the model, float32 (n, ...) on its device."""
        return torch.cat(list(self.outputs(states)))

    def outputs(self, states: States) -> Iterator[torch.Tensor]:
        """Outputs of the model batch by batch, float32 (size, ...) on its device."""
        for pair in states:
            with torch.no_grad(), self.class_row.only():
                found = self.resume(states.start, *pair)
            yield found

    @torch.no_grad()
    def run_block(self, states: States, until: torch.nn.Module | None = None) -> None:
        """Run only the block that ``states`` belong to, so that its hooks are called.

        Args:
            states: inputs of the block.
            until: module of the block that is the last one to get its input; it is not computed. Hooks on its input
                must be there before this call. None: the whole block runs.
        """
        block = self.blocks[states.start]
        with ExitStack() as stack:
            if until is not None:
                stack.callback(until.register_forward_pre_hook(_stop).remove)
            for arguments, _ in states:
                try:
                    block.module(*copied(arguments))
                except _Reached:
                    continue

    def resume(self, index: int, arguments: tuple[Any, ...], size: int) -> torch.Tensor:
        """Compute outputs float32 (size, ...) from the inputs of block ``index``; differentiable."""
        with self._skipping(index, arguments):
            output: torch.Tensor = self.model(self._images(index, arguments, size))
        return output.float()

    def _images(self, index: int, arguments: tuple[Any, ...], size: int) -> torch.Tensor:
        if self.blocks[index].module is self.model:
            images: torch.Tensor = arguments[0]
            return images
        return self._image.expand(size, -1, -1, -1)

    def _inputs_of(self, index: int, batch: Any, start: int | None) -> tuple[Any, ...]:
        """Arguments of block ``index``, from images (start None) or from (arguments, size) of block ``start``."""
        block = self.blocks[index]
        if block.module is self.model:
            return (batch,)
        caught: list[tuple[Any, ...]] = []

        def catch(*arguments: Any, **_: Any) -> None:
            caught.append(tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments))
            raise _Reached

        with forward_of(block.module, catch):
            try:
                if start is None:
                    self.model(batch)
                else:
                    self.resume(start, *batch)
            except _Reached:
                return caught[0]
        raise LampqError(f"block {block.name} is not reached in a forward pass")

    @contextmanager
    def _skipping(self, index: int, arguments: tuple[Any, ...]) -> Iterator[None]:
        block = self.blocks[index]
        if block.module is self.model:
            yield
            return
        with ExitStack() as stack:
            for earlier in self.blocks[:index]:
                position = earlier.carried
                stack.enter_context(forward_of(earlier.module, lambda *a, p=position, **_: a[p]))
            original = block.module.forward
            # Blocks may overwrite their arguments, but the states are used again.
            stack.enter_context(
                forward_of(block.module, lambda *_, **keywords: original(*copied(arguments), **keywords))
            )
            yield


def _find_blocks(model: torch.nn.Module, layers: Sequence[ModelLayer], example: torch.Tensor) -> tuple[Block, ...]:
    modules = dict(model.named_modules())
    if isinstance(model, OnnxModel):
        names = dict.fromkeys(model.transformer_blocks)
    else:
        roots = [layer.name for layer in layers if layer.type == "qkv"]
        ends = [layer.name for layer in layers if layer.type == "fc2"]
        names = dict.fromkeys(name for name in (_common_parent(root, ends) for root in roots) if name)
    # A module that holds another candidate is a stage, not a block.
    names = {n: None for n in names if not any(other != n and other.startswith(f"{n}.") for other in names)}
    calls: dict[str, list[tuple[tuple[Any, ...], Any]]] = {name: [] for name in names}
    order: list[str] = []
    seen: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
            calls[name].append(((arguments, keywords), output))
            order.append(name)

        return hook

    handles = [modules[name].register_forward_hook(watch(name), with_kwargs=True) for name in names]
    handles += [layer.module.register_forward_hook(lambda *_, name=layer.name: seen.append(name)) for layer in layers]
    try:
        with torch.no_grad():
            model(example[:1])
    finally:
        for handle in handles:
            handle.remove()
    by_name = {layer.name: layer for layer in layers}
    found: list[Block] = []
    for name in order:
        carried = _carried(modules[name], calls[name])
        if carried is None:
            found = []
            break
        members = set(modules[name].modules())
        inside = tuple(by_name[u] for u in dict.fromkeys(seen) if by_name[u].module in members)
        found.append(Block(name, modules[name], inside, carried))
    if found:
        return tuple(found)
    return (Block("", model, tuple(by_name[u] for u in dict.fromkeys(seen))),)


def _whole(model: torch.nn.Module, blocks: Sequence[Block], layers: Sequence[ModelLayer]) -> Block:
    """The model as one block.

    Layers inside ``blocks`` are in the order they compute; the others come before or after them.
    """
    inside = [layer for block in blocks for layer in block.layers]
    names = {layer.name for layer in inside}
    outside = [layer for layer in layers if layer.name not in names]
    before = [layer for layer in outside if layer.type == "patch_embed"]
    return Block("", model, (*before, *inside, *(layer for layer in outside if layer not in before)))


def _carried(module: torch.nn.Module, calls: list[tuple[tuple[Any, ...], Any]]) -> int | None:
    """Position of the argument that replaces the output when a block is skipped; None if it cannot be skipped."""
    if len(calls) != 1:
        return None
    (arguments, keywords), output = calls[0]
    if any(isinstance(value, torch.Tensor) for value in keywords.values()) or not isinstance(output, torch.Tensor):
        return None
    if keywords and not _same_without(module, arguments, output):
        return None
    for position in reversed(range(len(arguments))):
        value = arguments[position]
        if isinstance(value, torch.Tensor) and value.shape == output.shape:
            return position
    return None


@torch.no_grad()
def _same_without(module: torch.nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> bool:
    """Whether the keywords of a call do not change the output: blocks are called again without them."""
    try:
        again = module(*copied(arguments))
    except TypeError:
        return False
    return isinstance(again, torch.Tensor) and torch.equal(again, output)


def _common_parent(root: str, ends: Sequence[str]) -> str:
    """Shortest module path that contains ``root`` and one of ``ends``; empty if only the model does."""
    parts = root.split(".")
    for length in range(len(parts) - 1, 0, -1):
        prefix = ".".join(parts[:length])
        if any(end.startswith(f"{prefix}.") for end in ends):
            return prefix
    return ""
