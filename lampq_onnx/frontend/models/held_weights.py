"""Which parameters of a model the initializers of its export hold, so that changed weights need no second export."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

_Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class _Holder:
    """A parameter or buffer, as an initializer holds it."""

    name: str
    transposed: bool


class HeldWeights:
    """The parameters that each initializer of a graph is equal to.

    Exporting takes far longer than everything else that depends only on the graph: seconds for a small model, most of
    a minute for a ViT-L. If only values of weights changed, the graph is the same.

    Args:
        graph: the export of ``module``.
        module: the model, in the state that was exported.
    """

    def __init__(self, graph: ir.Graph, module: torch.nn.Module) -> None:
        wanted = {
            name: value.const_value.numpy()
            for name, value in graph.initializers.items()
            if value.const_value is not None and _is_weight(value.const_value)
        }
        by_shape: defaultdict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, array in wanted.items():
            by_shape[array.shape].append(name)
        self._holders: defaultdict[str, list[_Holder]] = defaultdict(list)
        self._elsewhere: dict[str, _Array] = {}
        for parameter, held in _tensors(module):
            if parameter in wanted and np.array_equal(wanted[parameter], held):
                self._holders[parameter].append(_Holder(parameter, transposed=False))  # the exporter keeps the names
                continue
            found = False
            for transposed in (False, True) if held.ndim == 2 else (False,):
                array = held.T if transposed else held
                for name in by_shape.get(array.shape, ()):
                    if np.array_equal(wanted[name], array):
                        self._holders[name].append(_Holder(parameter, transposed))
                        found = True
            if not found:
                self._elsewhere[parameter] = held.copy()
        self._complete = wanted.keys() == self._holders.keys()

    def renew(self, graph: ir.Graph, module: torch.nn.Module) -> bool:
        """Give the graph the current weights of the module.

        Args:
            graph: the graph that was searched.
            module: the same model. Only values of its parameters have changed.

        Returns:
            Whether this was possible. Otherwise the graph is as before, and an export is needed: an initializer was
            computed from parameters, equal parameters share an initializer and now differ, or a parameter that no
            initializer holds has changed.
        """
        if not self._complete:
            return False
        now = dict(_tensors(module))
        if any(not np.array_equal(now[name], before) for name, before in self._elsewhere.items()):
            return False
        renewed: dict[str, _Array] = {}
        for name, holders in self._holders.items():
            first, *others = (now[h.name].T if h.transposed else now[h.name] for h in holders)
            if any(not np.array_equal(first, other) for other in others):
                return False
            renewed[name] = first
        for name, array in renewed.items():
            value = graph.initializers[name]
            before = value.const_value
            assert before is not None
            dtype = before.numpy().dtype
            value.const_value = ir.tensor(np.array(array, dtype=dtype, order="C"), name=before.name)
        return True


def _is_weight(tensor: ir.TensorProtocol) -> bool:
    """Whether a constant may hold parameters: single numbers are constants of the code."""
    return tensor.dtype.is_floating_point() and tensor.size > 1


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, _Array]]:
    """Parameters and buffers by name, those with several names once for each."""
    for group in (module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)):
        for name, tensor in group:
            yield name, tensor.detach().cpu().numpy()
