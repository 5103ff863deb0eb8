"""A run that is stopped anywhere gives, when it goes on, the bits of one that was not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lampq_onnx.artifacts import ActivationRange
from lampq_onnx.config.options import AnalysisOptions
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.config.stages import stages_of
from lampq_onnx.disk.cache import ArrayCache
from lampq_onnx.disk.codec import decode, encode
from lampq_onnx.frontend.rounding.effort import EFFORTS
from lampq_onnx.frontend.rounding.reconstruct import ReconstructSettings
from lampq_onnx.frontend.rounding.tune import TuneSettings
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.kept import _TENSORS, Kept
from lampq_onnx.quantization import Grid, QuantizedWeight
from lampq_onnx.running.progress import NO_PROGRESS, Clock
from lampq_onnx.runtime.environment import target_here
from lampq_onnx.workflow.search import Found, Search
from tests.frontend.tiny_models import images, loaded, tiny_vit, untouched


class _StoppedError(Exception):
    pass


class _StoppingCache(ArrayCache):
    """Fails after a number of writes, as a process that is killed between two of them."""

    def __init__(self, folder: Path, writes: int) -> None:
        super().__init__(folder)
        self.left = writes

    def put(self, key: str, arrays: object) -> None:
        super().put(key, arrays)  # type: ignore[arg-type]
        self.left -= 1
        if self.left == 0:
            raise _StoppedError


def results(found: Found) -> tuple[object, ...]:
    weights = {
        name: (w.codes.tobytes(), w.scale.tobytes(), w.bits, w.grid, None if w.bias is None else w.bias.tobytes())
        for name, w in found.rounded.weights.items()
    }
    return weights, found.plan.to_json(), found.rounded.methods, found.rounded.losses


def test_a_run_stopped_after_any_step_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(
        EFFORTS["best"],
        reconstruct=ReconstructSettings(steps=2, batch_size=8),
        tune=TuneSettings(steps=3, batch_size=8, warmup=1),
    )
    monkeypatch.setitem(EFFORTS, "best", few)
    recipe = Recipe.build(
        {"model": {"name": "tiny"}, "analysis": {"effort": "best", "equalize": False}},
        {"allocation": {"bits": 3, "candidates": "2-4"}, "update": {"rounds": 1}, "output": {"threads": 1}},
    )
    frontend, crops = Frontend(loaded(tiny_vit())), images(24)
    stages = stages_of(recipe, target_here("auto"))

    def run(cache: ArrayCache | None) -> tuple[Found, Clock]:
        clock = Clock(NO_PROGRESS)
        return Search(frontend, crops, recipe, stages, Kept(cache, "key", progress=clock), clock).run(), clock

    whole = results(run(None)[0])
    cache = tmp_path / "cache"
    for writes in (1, 1, 1, 1, 3, 5, 1):  # costs, sensitivities, granularity, update, and within the rounding
        with pytest.raises(_StoppedError):
            run(_StoppingCache(cache, writes))
        assert untouched(frontend.loaded.module)
    found, clock = run(ArrayCache(cache))
    assert results(found) == whole
    assert {"sensitivities_(kept)", "iterative_update_(kept)", "tuning"} <= set(clock.seconds)
    assert "costs" not in clock.seconds
    # Parts of finished steps are gone, but for the costs: a run stopped between keeping what they belong to and that.
    assert len(ArrayCache(cache).entries()) == 5
    found, clock = run(ArrayCache(cache))
    assert results(found) == whole
    assert not {"rounding", "tuning", "block_reconstruction", "iterative_update"} & set(clock.seconds)


def test_kept_strengths_equalize_as_measured_ones(tmp_path: Path) -> None:
    states = []
    for _ in range(2):
        frontend = Frontend(loaded(tiny_vit()))
        options = AnalysisOptions(weight_bits=3, activation_bits=4)
        clock = Clock(NO_PROGRESS)
        kept = Kept(ArrayCache(tmp_path), "key", progress=clock)
        frontend.equalize(images(16), options, seed=0, progress=clock, kept=kept)
        states.append({name: value.clone() for name, value in frontend.loaded.module.state_dict().items()})
    assert "equalization_(kept)" in clock.seconds
    assert frontend.equalized
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_a_result_depends_on_is_in_its_key(tmp_path: Path) -> None:
    kept = Kept(ArrayCache(tmp_path), "a")
    assert kept.get("x", lambda: 1) == 1
    assert kept.get("x", lambda: 2) == 1
    assert Kept(ArrayCache(tmp_path), "b").get("x", lambda: 2) == 2
    assert kept.after("c").get("x", lambda: 3) == 3
    assert kept.get("y", lambda: 4) == 4
    assert Kept(ArrayCache(tmp_path), "a", fresh=True).get("x", lambda: 5) == 5
    assert kept.get("x", lambda: 6) == 5


def test_values_come_back_exactly() -> None:
    weight = QuantizedWeight(
        codes=np.arange(6, dtype=np.uint8).reshape(2, 3), scale=np.float32([0.1, 3e-40]), bits=3, grid=Grid.MID_RISE
    )
    value = {
        3: [weight, (1.5, float("inf"), 1e-320)],
        "range": ActivationRange(low=-0.1, high=0.30000000000000004),
        "tensor": torch.tensor([[0.1, -0.0]]),
        "none": None,
    }
    arrays: dict[str, np.ndarray] = {}
    found = decode(encode(value, arrays, _TENSORS), arrays, _TENSORS)
    back = found[3][0]
    assert (back.codes == weight.codes).all()
    assert back.scale.tobytes() == weight.scale.tobytes()
    assert (back.bits, back.grid, back.bias) == (3, Grid.MID_RISE, None)
    assert found[3][1] == value[3][1]
    assert found["range"] == value["range"]
    assert torch.equal(found["tensor"], value["tensor"])
    assert torch.signbit(found["tensor"])[0, 1]
    assert found["none"] is None
    with pytest.raises(TypeError, match="cannot be stored"):
        encode(object(), {})
    with pytest.raises(ValueError, match="not a type"):
        decode({"type": "os:environ", "fields": {}}, {})
