"""GPTQ against its own objective and a literal transcription."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lampq_onnx.frontend.simulation import columns as columns_module
from lampq_onnx.frontend.simulation import gptq
from lampq_onnx.frontend.simulation.columns import Columns, Levels, _round
from lampq_onnx.frontend.simulation.gptq import DAMPING, GptqResult
from lampq_onnx.frontend.simulation.gptq import gptq_quantize as quantize_all
from lampq_onnx.quantization import QuantizedWeight, WeightGrid, fit_weight_grid


def gptq_quantize(weight: np.ndarray, grid: WeightGrid, hessian: np.ndarray) -> QuantizedWeight:
    return quantize_all(torch.from_numpy(weight), [grid], torch.from_numpy(hessian))[0].weight


def problem(outputs: int, inputs: int, tokens: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the hessian of correlated inputs."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(inputs, inputs)) * np.geomspace(1, 0.05, inputs)
    x = random.normal(size=(tokens, inputs)) @ mixing
    return random.normal(size=(outputs, inputs)).astype(np.float32), x.T @ x / tokens


def output_error(change: np.ndarray, hessian: np.ndarray) -> float:
    return float(np.einsum("oi,ij,oj->", change, hessian, change))


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("shape", [(6, 20), (3, 150), (1, 1), (5, 2)])
def test_never_worse_than_nearest_by_much_and_mostly_far_better(bits: int, shape: tuple[int, int]) -> None:
    weight, hessian = problem(*shape, tokens=400)
    grid = fit_weight_grid(weight, bits)
    nearest, clever = grid.quantize(weight), gptq_quantize(weight, grid, hessian)
    assert clever.codes.max() < 2**bits
    assert np.array_equal(clever.scale, nearest.scale)
    errors = [output_error(q.dequantize() - weight, hessian) for q in (nearest, clever)]
    if shape[1] >= 20:
        assert errors[1] < 0.75 * errors[0]
    else:
        assert errors[1] <= 1.2 * errors[0] + 1e-9


def test_a_diagonal_hessian_is_plain_rounding() -> None:
    weight, _ = problem(4, 30, 10)
    grid = fit_weight_grid(weight, 3)
    hessian = np.diag(np.random.default_rng(1).uniform(0.1, 5, 30))
    assert np.array_equal(gptq_quantize(weight, grid, hessian).codes, grid.quantize(weight).codes)


def test_blocks_do_not_change_the_result() -> None:
    """One column at a time, the inverse downdated as in the original formulation (OBQ)."""
    weight, hessian = problem(3, 140, 500, seed=2)
    grid = fit_weight_grid(weight, 4)
    inputs = weight.shape[1]
    order = np.argsort(-np.diag(hessian), kind="stable")
    inverse = np.linalg.inv(hessian + DAMPING * np.trace(hessian) / inputs * np.eye(inputs))[np.ix_(order, order)]
    work = weight[:, order].astype(np.float64)
    levels = np.empty_like(work)
    scale = grid.scale.astype(np.float64)
    for j in range(inputs):
        levels[:, j] = grid.grid.level(grid.grid.codes_of(work[:, j] / scale, 4), 4) * scale
        error = (work[:, j] - levels[:, j]) / inverse[j, j]
        work[:, j:] -= error[:, None] * inverse[j, j:]
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    found = gptq_quantize(weight, grid, hessian).dequantize()[:, order]
    assert (np.abs(found - levels) > 1e-5).mean() < 0.01  # ties may fall either way


@pytest.mark.parametrize("size", [40, 64, 130])
def test_the_factor_is_that_of_the_inverse(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "INVERTED", 64)
    x = torch.randn(300, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    hessian = x.T @ x / len(x)
    found = gptq.factorize(hessian)
    assert found is not None
    own = hessian[found.order][:, found.order] + found.damping * torch.eye(size)
    wanted = torch.linalg.cholesky(torch.linalg.inv(own), upper=True)
    torch.testing.assert_close(found.factor.double(), wanted, rtol=1e-5, atol=1e-6)


def test_dead_inputs_and_bad_hessians() -> None:
    weight, hessian = problem(3, 8, 50)
    grid = fit_weight_grid(weight, 4)
    assert np.array_equal(gptq_quantize(weight, grid, np.zeros((8, 8))).codes, grid.quantize(weight).codes)
    hessian[2] = hessian[:, 2] = 0
    assert gptq_quantize(weight, grid, hessian).codes.shape == weight.shape
    with pytest.raises(ValueError, match="8 inputs"):
        gptq_quantize(weight, grid, np.eye(7))
    with pytest.raises(ValueError, match="NaN"):
        gptq_quantize(weight, grid, np.full((8, 8), np.nan))


def test_widths_side_by_side_are_those_alone() -> None:
    weight, hessian = problem(5, 40, 300)
    grids = [fit_weight_grid(weight, bits) for bits in (1, 2, 3, 4, 8)]
    together = quantize_all(torch.from_numpy(weight), grids, torch.from_numpy(hessian))
    for grid, found in zip(grids, together, strict=True):
        assert np.array_equal(found.weight.codes, gptq_quantize(weight, grid, hessian).codes)


def test_the_latent_weights_round_to_the_result() -> None:
    weight, hessian = problem(5, 200, 300)
    grid = fit_weight_grid(weight, 3)
    found: GptqResult = quantize_all(torch.from_numpy(weight), [grid], torch.from_numpy(hessian))[0]
    assert found.latent is not None
    assert (grid.quantize(found.latent.numpy()).codes != found.weight.codes).mean() < 0.001  # ties


def test_errors_are_those_of_the_outputs() -> None:
    weight, hessian = problem(6, 40, 300)
    rows = np.array([2, 8, 3, 4, 5, 2] * len(weight))[: len(weight)]
    grids = [fit_weight_grid(weight, 2), fit_weight_grid(weight, rows), fit_weight_grid(weight, 8)]
    for found in quantize_all(torch.from_numpy(weight), grids, torch.from_numpy(hessian), latent=False):
        change = (found.weight.dequantize() - weight).astype(np.float64)
        np.testing.assert_allclose(found.errors, ((change @ hessian) * change).sum(1), rtol=1e-4)
        assert found.latent is None


def test_rows_of_different_widths_are_rounded_as_rows_of_one() -> None:
    weight, hessian = problem(6, 40, 300)
    rows = np.array([2, 8, 3, 4, 5, 2] * len(weight))[: len(weight)]
    mixed = gptq_quantize(weight, fit_weight_grid(weight, rows), hessian)
    for index, bits in enumerate(rows.tolist()):
        alone = gptq_quantize(weight[index : index + 1], fit_weight_grid(weight[index : index + 1], bits), hessian)
        if alone.grid is mixed.row_groups()[[g.bits for g in mixed.row_groups()].index(bits)].grid:
            assert (mixed.codes[index] != alone.codes[0]).mean() < 0.01


class Recorded:
    """Stands for a CUDA graph: a replay does what was done while it was recorded, on the same tensors."""

    def __init__(self, columns: Columns) -> None:
        self.replays = 0
        self._columns = columns

    def __call__(self) -> None:
        self.replays += 1
        given, found = self._columns._inputs, self._columns._outputs
        assert given is not None
        assert found is not None
        _round(self._columns._levels, *given, *found)


@pytest.mark.parametrize("block", [None, 32])
@pytest.mark.parametrize("bits", [(4,), (2, 3), (1, 2)])
def test_replayed_columns_have_the_codes_of_the_loop(
    monkeypatch: pytest.MonkeyPatch, bits: tuple[int, ...], block: int | None
) -> None:
    """The tensors of the first call are used by all later ones, as a CUDA graph does."""
    weight, hessian = problem(5, 200, 600, seed=3)
    grids = [fit_weight_grid(weight, b, block=block) for b in bits]
    tensors = torch.from_numpy(weight), grids, torch.from_numpy(hessian)
    loop = quantize_all(*tensors)
    made: list[Recorded] = []

    class Replayed(Columns):
        def round(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            found = super().round(*arguments)
            if self._inputs is None:
                part, factor, diagonal, places = (value.clone() for value in arguments)
                self._inputs = part, factor, diagonal, self._levels.scales(places).clone()
                self._outputs = torch.empty_like(part), torch.empty_like(part)
                self._replay = Recorded(self)
                made.append(self._replay)
            return found

    monkeypatch.setattr(gptq, "Columns", Replayed)
    for one, other in zip(loop, quantize_all(*tensors), strict=True):
        assert np.array_equal(one.weight.codes, other.weight.codes)
        assert one.latent is not None
        assert other.latent is not None
        assert torch.equal(one.latent, other.latent)
        assert np.array_equal(one.errors, other.errors)
    assert made[0].replays == 200 // gptq.BLOCK - 1  # not the first, and not the last, which is shorter


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_gives_the_codes_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, hessian = problem(40, 300, 900, seed=4)
    grids = [fit_weight_grid(weight, b) for b in (2, 4)]
    tensors = torch.from_numpy(weight).cuda(), grids, torch.from_numpy(hessian).cuda()
    found = [quantize_all(*tensors)]
    monkeypatch.setattr(gptq, "GRAPHED", 10**6)
    found.append(quantize_all(*tensors))
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one.weight.codes, other.weight.codes)


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("no memory"), RuntimeError("not while capturing")])
def test_a_graph_that_cannot_be_made_is_told_once_and_lack_of_memory_is_raised(
    error: RuntimeError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_: object) -> None:
        raise error

    columns_module._warn_once.cache_clear()
    monkeypatch.setattr(torch.cuda, "device", failing)
    weight, _ = problem(4, 6, 9, seed=0)
    columns = Columns(Levels([fit_weight_grid(weight, 4)], torch.device("cpu")), graphed=True)
    columns._inputs = (torch.zeros(1),) * 4
    columns._outputs = (torch.zeros(1),) * 2
    if isinstance(error, torch.cuda.OutOfMemoryError):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            columns._captured()
        return
    assert columns._captured() is None
    assert columns._captured() is None
    assert [record.getMessage() for record in caplog.records] == [
        "GPTQ runs one operation at a time: not while capturing"
    ]
