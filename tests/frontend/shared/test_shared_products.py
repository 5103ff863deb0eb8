"""Products of layers by oneDNN: their values and gradients, and which modules use them."""

from __future__ import annotations

import pytest
import torch

from lampq_onnx.frontend.shared import products
from lampq_onnx.frontend.shared.products import gram, linear, own_gram, use_products
from lampq_onnx.frontend.shared.threads import torch_threads

ROUNDING = 1e-5


@pytest.fixture(autouse=True)
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute by oneDNN on any processor that it runs on."""
    if not (torch.backends.mkl.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        pytest.skip("PyTorch for x86 has both MKL and oneDNN, and this one has not")
    monkeypatch.setattr(products, "by_onednn", lambda: True)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", [(70, 48), (3, 70, 48), (2, 5, 9, 48)])
@pytest.mark.parametrize("bias", [True, False])
def test_product_is_that_of_double_precision(shape: tuple[int, ...], *, bias: bool) -> None:
    x, w, b = random(*shape), random(32, 48), random(32) if bias else None
    found = linear(x, w, b)
    wanted = x.double() @ w.double().T + (0 if b is None else b.double())
    assert found.shape == (*shape[:-1], 32)
    torch.testing.assert_close(found.double(), wanted, rtol=ROUNDING, atol=ROUNDING * float(wanted.abs().max()))


def test_product_of_transposed_and_cut_tensors() -> None:
    x, w = random(48, 200).T, random(64, 96)[::2, ::2]
    torch.testing.assert_close(linear(x, w), x.contiguous() @ w.contiguous().T, rtol=ROUNDING, atol=1e-4)


def test_gram_is_a_sum_over_rows() -> None:
    a, b = random(300, 24), random(300, 40)
    wanted = torch.einsum("na,nb->ab", a.double(), b.double())
    torch.testing.assert_close(gram(a, b).double(), wanted, rtol=ROUNDING, atol=1e-4)


@pytest.mark.parametrize("width", [24, products.LEAST_COLUMNS, 300, products.PARTS * products.LEAST_COLUMNS + 40])
def test_own_gram_is_the_symmetric_sum_over_rows(width: int) -> None:
    rows = random(90, width)
    found = own_gram(rows)
    wanted = torch.einsum("na,nb->ab", rows.double(), rows.double())
    torch.testing.assert_close(found.double(), wanted, rtol=ROUNDING, atol=1e-4)


@pytest.mark.parametrize("wanted", [(True, True, True), (True, False, False), (False, True, True)])
def test_gradients_are_those_of_double_precision(wanted: tuple[bool, bool, bool]) -> None:
    tensors = [random(2, 90, 24), random(40, 24), random(40)]
    weights = random(2, 90, 40)

    def gradients(values: list[torch.Tensor], function: object) -> list[torch.Tensor]:
        own = [v.clone().requires_grad_(asked) for v, asked in zip(values, wanted, strict=True)]
        loss = (function(*own) * weights.to(own[0])).sum()  # type: ignore[operator]
        return list(torch.autograd.grad(loss, [v for v, asked in zip(own, wanted, strict=True) if asked]))

    exact = gradients([v.double() for v in tensors], torch.nn.functional.linear)
    for found, true in zip(gradients(tensors, linear), exact, strict=True):
        torch.testing.assert_close(found.double(), true, rtol=ROUNDING, atol=1e-4)


def test_module_uses_the_product_and_looks_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(48, 32), torch.nn.GELU(), torch.nn.Linear(32, 8))
    x = random(64, 48)
    wanted, kinds = model(x), [type(part).__name__ for part in model]
    use_products(model)
    calls: list[int] = []
    product = products._product
    monkeypatch.setattr(products, "_product", lambda *a: calls.append(1) or product(*a))
    with torch.no_grad():
        torch.testing.assert_close(model(x), wanted, rtol=ROUNDING, atol=ROUNDING)
    assert len(calls) == 1  # the second is too small
    assert [type(part).__name__ for part in model] == kinds
    assert all(isinstance(part, torch.nn.Linear) for part in model[::2])


def test_layers_with_another_forward_are_left_alone() -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    layer = Doubled(48, 32)
    use_products(torch.nn.Sequential(layer))
    assert type(layer) is Doubled


def test_export_sees_the_ordinary_product() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(48, 32)).eval()
    use_products(model)
    program = torch.export.export(model, (random(64, 48),))
    assert {str(node.target) for node in program.graph.nodes if node.op == "call_function"} == {"aten.linear.default"}


def test_other_types_and_processors_take_the_ordinary_product(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = random(64, 48).double(), random(32, 48).double()
    assert torch.equal(linear(x, w), torch.nn.functional.linear(x, w))
    monkeypatch.setattr(products, "by_onednn", lambda: False)
    layer = torch.nn.Linear(4, 4)
    use_products(layer)
    assert type(layer) is torch.nn.Linear


def test_processor_is_read_from_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    rule = products.by_onednn.__wrapped__
    assert products._processor().strip()
    monkeypatch.setattr(products, "_processor", lambda: "vendor_id: GenuineIntel")
    assert not rule()
    monkeypatch.setattr(products, "_processor", lambda: "vendor_id: AuthenticAMD")
    for capability, wanted in (("AVX512", True), ("AVX2", False)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        assert rule() == wanted


@pytest.mark.parametrize(("rows", "inner", "outputs"), [(1, 4096, 10), (1, 768, 192), (8, 32768, 32), (197, 768, 192)])
def test_results_do_not_depend_on_the_number_of_threads(rows: int, inner: int, outputs: int) -> None:
    x, w = random(rows, inner), random(inner, outputs).T
    found = []
    for count in (1, 2, 4):
        with torch_threads(count):
            found.append(linear(x, w))
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_what_onednn_must_not_compute_takes_the_ordinary_product(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = random(64, 48), random(32, 48)
    assert products._suits(x, w, None)
    assert not products._suits(x, w, random(32).double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not products._suits(x, w, None)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not products._suits(x, w, None)
