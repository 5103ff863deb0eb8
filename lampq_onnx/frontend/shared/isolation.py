"""Gives copies to layers whose inputs or outputs the model overwrites, so that hooks keep the original values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

from lampq_onnx.errors import LampqError

LAYERS = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.LayerNorm, torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
"""Types of modules that hooks observe. None of them writes to its own input."""


class _Writes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Reports every tensor that an operator writes to.

    Args:
        written: called with the address of the tensor's storage.
    """

    def __init__(self, written: Callable[[int], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._written = written

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Report the tensors that a call writes to; see `TorchDispatchMode`."""
        kwargs = kwargs or {}
        if function._schema.is_mutable:
            for position, argument in enumerate(function._schema.arguments):
                if argument.alias_info is None or not argument.alias_info.is_write:
                    continue
                value = args[position] if position < len(args) else kwargs.get(argument.name)
                for tensor in _tensors(value):
                    self._written(tensor.untyped_storage()._cdata)
        return function(*args, **kwargs)


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, torch.Tensor)]


@dataclass(frozen=True)
class Overwritten:
    """Modules whose inputs or outputs are overwritten in a forward pass.

    Attributes:
        inputs: modules of `LAYERS` whose input is written to after they were called.
        outputs: modules of `LAYERS` whose output is written to.
        blocks: modules with submodules whose input is written to, by them or later; may include the model itself.
    """

    inputs: tuple[torch.nn.Module, ...]
    outputs: tuple[torch.nn.Module, ...]
    blocks: tuple[torch.nn.Module, ...]


@torch.no_grad()
def overwritten(module: torch.nn.Module, example: torch.Tensor) -> Overwritten:
    """Find the modules whose tensors a forward pass on float32 (n, c, h, w) writes to."""
    # The weak references prevent the addresses from being reused by other storages.
    held: list[StorageWeakRef] = []
    readers: dict[int, list[torch.nn.Module]] = {}
    makers: dict[int, list[torch.nn.Module]] = {}
    inputs: dict[torch.nn.Module, None] = {}
    outputs: dict[torch.nn.Module, None] = {}

    def note(places: dict[int, list[torch.nn.Module]], part: torch.nn.Module, values: Any) -> None:
        for tensor in _tensors(values):
            storage = tensor.untyped_storage()
            held.append(StorageWeakRef(storage))  # type: ignore[no-untyped-call]
            places.setdefault(storage._cdata, []).append(part)

    def before(part: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        note(readers, part, (arguments, keywords))

    def after(part: torch.nn.Module, _: object, output: Any) -> None:
        note(makers, part, output)

    def written(address: int) -> None:
        inputs.update(dict.fromkeys(readers.get(address, ())))
        outputs.update(dict.fromkeys(makers.get(address, ())))

    layers = [part for part in module.modules() if isinstance(part, LAYERS)]
    # Containers such as ModuleList are never called, and a model may have no submodules.
    blocks = [part for part in module.modules() if part is module or next(part.children(), None) is not None]
    handles = [p.register_forward_pre_hook(before, with_kwargs=True) for p in dict.fromkeys((*layers, *blocks))]
    handles += [part.register_forward_hook(after) for part in layers]
    try:
        with _Writes(written):
            module(example.clone())
    finally:
        for handle in handles:
            handle.remove()
    return Overwritten(
        tuple(part for part in inputs if isinstance(part, LAYERS)),
        tuple(outputs),
        tuple(part for part in inputs if not isinstance(part, LAYERS)),
    )


@torch.no_grad()
def isolate(module: torch.nn.Module, name: str, example: torch.Tensor) -> int:
    """Let layers whose inputs or outputs are overwritten work on copies, in place.

    ``x += position`` after the patch embedding would change the tensor that a hook kept. It also cannot be
    differentiated if the backward pass starts at that layer's output. Blocks that overwrite their input get a copy of
    it, unless the model relies on the overwriting. The model's function stays the same.

    Args:
        module: the model in evaluation mode.
        name: name of the model, for messages.
        example: float32 (n, c, h, w).

    Returns:
        The number of changed modules.

    Raises:
        LampqError: the model relies on the overwriting in a way that copies break.
    """
    found = overwritten(module, example)
    changed = dict.fromkeys((*found.inputs, *found.outputs))
    if not changed and not found.blocks:
        return 0
    wanted = module(example.clone())
    for part in changed:
        part.__class__ = _copying(type(part), inputs=part in found.inputs, outputs=part in found.outputs)
    if not _same(wanted, module(example.clone())):
        raise LampqError(
            f"{name} overwrites inputs or outputs of its layers, and computes something else if they are copied",
            hint="write `x = x + y` instead of `x += y` in its forward, or export it and give the .onnx file",
        )
    for part in found.blocks:
        kind = type(part)
        part.__class__ = _own(kind)
        if _same(wanted, module(example.clone())):
            changed[part] = None
        else:
            part.__class__ = kind
    return len(changed)


def _same(one: Any, other: Any) -> bool:
    pairs = zip(_tensors(one), _tensors(other), strict=True)
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True) for a, b in pairs)


def _copying(kind: type[torch.nn.Module], *, inputs: bool, outputs: bool) -> Any:
    """A subclass of ``kind`` that is called with copies of its inputs, or returns copies of its outputs.

    Hooks run inside the call, so they see tensors that no other code holds.
    """

    def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
        if inputs:
            arguments, keywords = copied((arguments, keywords))
        result = kind.__call__(self, *arguments, **keywords)
        return copied(result) if outputs else result

    return _like(kind, "__call__", call)


def _own(kind: type[torch.nn.Module]) -> Any:
    """A subclass of ``kind`` whose forward gets copies, which it may write to."""

    @functools.wraps(kind.forward)  # the exporter reads the names of its arguments
    def forward(self: Any, *arguments: Any, **keywords: Any) -> Any:
        arguments, keywords = copied((arguments, keywords))
        return kind.forward(self, *arguments, **keywords)

    return _like(kind, "forward", forward)


def _like(kind: type[torch.nn.Module], method: str, function: Callable[..., Any]) -> Any:
    members = {method: function, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), members)


def copied(values: Any) -> Any:
    """The same structure with a copy of every tensor; gradients pass through."""
    return tree_map_only(torch.Tensor, torch.Tensor.clone, values)
