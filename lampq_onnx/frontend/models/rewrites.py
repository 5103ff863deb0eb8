"""Rewrites modules of a model into the form that all stages expect, without changing what they compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.attention import separate
from lampq_onnx.frontend.shared.changes import relative_change

SAME = 1e-4
"""Largest relative change (L2) of the outputs by a rewrite that float rounding explains."""

BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, BatchNormAct2d)
"""Batch norms whose code is known; subclasses may compute something else."""


@torch.no_grad()
def rewrite(module: torch.nn.Module, name: str, example: torch.Tensor) -> dict[str, int]:
    """Rewrite a model in place.

    - The qkv layers of BEiT, EVA and Swin v2 get their bias as one vector and are called as modules. These models build
      it from the bias of q, zeros and the bias of v in every pass, and read the weight without calling the module.
    - A batch norm that is the only reader of a Linear or Conv2d is folded into it. Exporters do the same with
      convolutions, and the weights in the file would then belong to no module.
    - `torch.nn.MultiheadAttention` gets a Linear for queries, keys, values and the output.
    - In-place activations return a new tensor: hooks keep the outputs of layers, and leaves of a backward pass cannot
      be overwritten.

    Args:
        module: the model in evaluation mode.
        name: name of the model, for messages.
        example: float32 (n, c, h, w), on which the outputs before and after are compared.

    Returns:
        Rewrite -> number of places; rewrites that were not needed are left out.

    Raises:
        LampqError: the outputs changed.
    """
    for part in module.modules():
        if getattr(part, "inplace", False) is True:
            part.inplace = False  # type: ignore[assignment]
    pairs = _normalized_layers(module, example)
    attentions = [part for part in module.modules() if _has_split_bias(part)]
    joint = [
        (parent, key, own)
        for parent in list(module.modules())
        for key, child in parent.named_children()
        if (own := separate(child)) is not None
    ]
    if not pairs and not attentions and not joint:
        return {}
    before = module(example).double()
    for attention in attentions:
        _join_bias(attention)
    for layer, norm in pairs:
        _fold(layer, norm)
    _replace_norms(module, {norm for _, norm in pairs})
    for parent, key, own in joint:
        setattr(parent, key, own.eval())
    change = relative_change(module, module(example), before)
    if not change <= SAME:
        raise LampqError(
            f"{name} computes something else after its biases and batch norms were joined with their layers, and its "
            f"attention was taken apart: the outputs change by {change:.1e} (bound {SAME:.0e})",
            hint="export it yourself, and give the .onnx file",
        )
    counts = {
        "joined qkv biases": len(attentions),
        "folded batch norms": len(pairs),
        "attention in separate layers": len(joint),
    }
    return {what: count for what, count in counts.items() if count}


def _has_split_bias(part: Any) -> bool:
    qkv, biases = getattr(part, "qkv", None), [getattr(part, f"{x}_bias", None) for x in "qkv"]
    if not isinstance(qkv, torch.nn.Linear) or getattr(qkv, "bias", None) is not None:
        return False
    sizes = [bias.numel() for bias in biases if isinstance(bias, torch.Tensor)]
    return len(sizes) == len(biases) and sum(sizes) == qkv.out_features


def _join_bias(part: Any) -> None:
    part.qkv.bias = _frozen(torch.cat([part.q_bias, part.k_bias, part.v_bias]))
    # Without a q_bias, these modules call their qkv.
    part.q_bias = part.v_bias = None
    del part.k_bias
    part.k_bias = None


def _normalized_layers(
    module: torch.nn.Module, example: torch.Tensor
) -> list[tuple[torch.nn.Linear | torch.nn.Conv2d, torch.nn.Module]]:
    """Pairs of a layer and the batch norm that alone reads its output; both are called once per pass."""
    reads = _Reads()
    outputs: list[tuple[torch.nn.Module, torch.Tensor]] = []
    found: list[tuple[torch.nn.Linear | torch.nn.Conv2d, torch.nn.Module]] = []
    calls: Counter[torch.nn.Module] = Counter()

    def keep(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        calls[layer] += 1
        outputs.append((layer, output))
        reads.watch(output)

    def look(norm: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        calls[norm] += 1
        for layer, output in reversed(outputs):
            # A view of the whole tensor counts too: some models flatten before they normalize.
            if output.data_ptr() == inputs[0].data_ptr() and output.numel() == inputs[0].numel():
                if output.shape[_axis(layer)] == norm.num_features:
                    found.append((layer, norm))  # type: ignore[arg-type]
                return

    norms = [part for part in module.modules() if type(part) in BATCH_NORMS and part.running_var is not None]
    if not norms:
        return []
    layers = [part for part in module.modules() if isinstance(part, torch.nn.Linear | torch.nn.Conv2d)]
    handles = [layer.register_forward_hook(keep) for layer in layers]
    handles += [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        with reads:
            module(example)
    finally:
        for handle in handles:
            handle.remove()
    readers = Counter[torch.nn.Module]()
    for layer, output in outputs:
        readers[layer] += reads.of(output)
    return [(layer, norm) for layer, norm in found if calls[layer] == calls[norm] == readers[layer] == 1]


class _Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operators that read watched tensors; one that only returns a view of its input reads nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts: Counter[int] = Counter()
        self._watched: set[int] = set()

    def watch(self, value: torch.Tensor) -> None:
        """Count from now on. The caller keeps the tensor, so that nothing else gets its memory."""
        self._watched.add(_memory(value))

    def of(self, value: torch.Tensor) -> int:
        """Number of operators that read the tensor or a view of it."""
        return self._counts[_memory(value)]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read = {_memory(value) for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)}
        if not func._schema.is_mutable:
            read -= {_memory(value) for value in tree_leaves(result) if isinstance(value, torch.Tensor)}
        self._counts.update(read & self._watched)
        return result


def _memory(value: torch.Tensor) -> int:
    return value.untyped_storage().data_ptr()


def _axis(layer: torch.nn.Module) -> int:
    return 1 if isinstance(layer, torch.nn.Conv2d) else -1


def _fold(layer: torch.nn.Linear | torch.nn.Conv2d, norm: Any) -> None:
    factor = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight
    bias = -norm.running_mean if layer.bias is None else layer.bias - norm.running_mean
    bias = bias * factor if norm.bias is None else bias * factor + norm.bias
    layer.weight = _frozen(layer.weight * factor.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias = _frozen(bias)


def _replace_norms(module: torch.nn.Module, norms: set[torch.nn.Module]) -> None:
    """Replace folded norms by what they do besides normalizing: timm's norms contain their activation."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if child in norms:
                rest = [part for part in child.children() if not isinstance(part, torch.nn.Identity)]
                setattr(parent, name, torch.nn.Sequential(*rest) if rest else torch.nn.Identity())


def _frozen(value: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(value, requires_grad=False)
