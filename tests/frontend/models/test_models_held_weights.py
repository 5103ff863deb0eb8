"""A graph gets changed weights without a second export, or says that it cannot."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.models.held_weights import HeldWeights
from lampq_onnx.frontend.shared.parameters import frozen
from tests.frontend.tiny_models import loaded, tiny_vit


def graph_of(**arrays: np.ndarray) -> ir.Graph:
    values = [ir.Value(name=name, const_value=ir.tensor(array, name=name)) for name, array in arrays.items()]
    return ir.Graph([], [], nodes=[], initializers=values)


def arrays_in(graph: ir.Graph) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in graph.initializers.items() if value.const_value}


class TwoLayers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
        torch.nn.init.zeros_(self.a.bias)
        self.c = torch.nn.Linear(2, 4)
        torch.nn.init.zeros_(self.c.bias)


def weights(module: TwoLayers, **more: np.ndarray) -> dict[str, np.ndarray]:
    """Initializers of an exporter that transposes weights and merges equal constants."""
    return {
        "w_a": module.a.weight.detach().numpy().T.copy(),
        "a.bias": module.a.bias.detach().numpy().copy(),
        "b.weight": module.b.weight.detach().numpy().copy(),
        "b.bias": module.b.bias.detach().numpy().copy(),
        "w_c": module.c.weight.detach().numpy().T.copy(),
        "half": np.array([0.5], np.float32),
        **more,
    }


def change(module: TwoLayers, name: str, factor: float) -> None:
    layer = module.get_submodule(name)
    layer.weight = frozen(layer.weight.data * factor)


def test_changed_weights_arrive_transposed_or_not() -> None:
    module = TwoLayers()
    graph = graph_of(**weights(module))
    before = arrays_in(graph)
    held = HeldWeights(graph, module)
    change(module, "a", 2.0)
    change(module, "b", 0.5)
    assert held.renew(graph, module)
    after = arrays_in(graph)
    np.testing.assert_array_equal(after["w_a"], 2 * before["w_a"])
    np.testing.assert_array_equal(after["b.weight"], before["b.weight"] / 2)
    for name in ("a.bias", "b.bias", "w_c", "half"):
        np.testing.assert_array_equal(after[name], before[name])
    assert after["w_a"].flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("kind", ["merged", "computed", "folded"])
def test_a_graph_that_needs_an_export_stays_as_it_is(kind: str) -> None:
    module = TwoLayers()
    arrays = weights(module)
    if kind == "computed":
        arrays["product"] = 3 * arrays["w_a"]
    if kind == "folded":
        del arrays["w_c"]
    graph = graph_of(**arrays)
    held = HeldWeights(graph, module)
    change(module, "a", 2.0)
    change(module, "c", 2.0)
    if kind == "merged":
        module.a.bias = frozen(torch.ones(4))
    assert not held.renew(graph, module)
    for name, array in arrays_in(graph).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_the_renewed_graph_is_that_of_a_new_export() -> None:
    model = loaded(tiny_vit())
    for part in model.module.modules():
        if isinstance(part, torch.nn.LayerNorm):  # new ones are all equal, and the exporter merges them
            part.weight = frozen(torch.rand_like(part.weight) + 0.5)
            part.bias = frozen(torch.rand_like(part.bias))
    exported = export_model(model).model
    held = HeldWeights(exported.graph, model.module)
    for name, part in model.module.named_modules():
        if isinstance(part, torch.nn.Linear | torch.nn.LayerNorm):
            factor = 1 + len(name) / 64
            part.weight = frozen(part.weight.data * factor)
    assert held.renew(exported.graph, model.module)
    assert ir.to_proto(exported).SerializeToString() == ir.to_proto(export_model(model).model).SerializeToString()
