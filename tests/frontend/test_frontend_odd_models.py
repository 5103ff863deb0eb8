"""Every odd model is taken or refused in one sentence, and a rehearsal says what the run does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lampq_onnx.config.options import AnalysisOptions
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.data import Preprocessing
from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.recognized import recognized
from lampq_onnx.frontend.session import Frontend
from lampq_onnx.frontend.shared.batching import tensors
from lampq_onnx.running.progress import NO_PROGRESS, Clock
from lampq_onnx.runtime import open_runner
from lampq_onnx.workflow.inputs import Given
from lampq_onnx.workflow.opened import opened_run
from lampq_onnx.workflow.quantize import recognize
from tests.frontend.odd_models import CLASSES, ODD, SIDE, Odd

HALF = Preprocessing(
    size=(SIDE, SIDE), crop_pct=1.0, crop_mode="squash", interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3,
    channels=3,
)  # fmt: skip
RECIPE = Recipe.build({"model": {"name": "odd"}, "analysis": {"effort": "fast"}, "output": {"threads": 1}})
TAKEN = [name for name, odd in ODD.items() if not odd.refused]
REFUSED = [name for name, odd in ODD.items() if odd.refused]


def made(odd: Odd) -> torch.nn.Module:
    torch.manual_seed(0)
    return odd.make()


def given(module: torch.nn.Module) -> Given:
    """The module, with four images that are calibrated and validated on."""
    pixels = np.random.default_rng(0).normal(size=(4, 3, SIDE, SIDE)).astype(np.float32)
    batch = (pixels, np.arange(4) % CLASSES)
    return Given(module=module, preprocessing=HALF, calibration=[batch], validation=[batch])


@pytest.mark.parametrize("name", TAKEN)
def test_an_odd_model_is_measured_as_its_rehearsal_says(name: str, tmp_path) -> None:
    odd = ODD[name]
    module = made(odd)
    wanted = None if name in ("float16", "training mode") else module.eval()
    with opened_run(RECIPE, Clock(NO_PROGRESS), given(module)) as opened:
        frontend, crops, _ = opened.measured()
        said = recognized(frontend, crops, equalize=True)
        _same_function(wanted, frontend, crops, tmp_path)
        frontend.use_gptq(crops)
        measured = frontend.analyze(crops, AnalysisOptions(effort="fast", candidates=(3, 4)), seed=0)
    assert [(u.name, u.type, u.shape, u.fixed) for u in said.layers] == [
        (u.name, u.type, u.shape, u.fixed) for u in measured.layers
    ]
    assert said.skipped == measured.skipped
    assert len(said.layers) == odd.layers
    for layer, reason in odd.skipped:
        assert reason in said.skipped[layer]
    assert len(said.skipped) == len(odd.skipped)
    assert all(model_layer.trace > 0 for model_layer in measured.layers)


def _same_function(module: torch.nn.Module | None, frontend: Frontend, crops, room) -> None:
    """The module as it was brought, the front end's, and the exported graph compute the same."""
    from lampq_onnx.graph.model_file import save_model

    images = next(tensors(crops, torch.device("cpu")))[0]
    with torch.no_grad():
        own = frontend.loaded.module(images.clone()).double()
        if module is not None:
            like = images.to(next(p for p in module.parameters() if p.is_floating_point()).dtype)
            torch.testing.assert_close(module(like.clone()).double(), own, rtol=1e-4, atol=1e-5)
    save_model(frontend.model, room / "float.onnx")
    runner = open_runner(room / "float.onnx", threads=1)
    (answer,) = runner.session.run(None, {runner.input: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(answer).double(), own, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_an_odd_model_is_refused_alike_by_run_and_rehearsal(name: str) -> None:
    odd = ODD[name]
    messages = []
    with pytest.raises(LampqError) as run, opened_run(RECIPE, Clock(NO_PROGRESS), given(made(odd))):
        pass
    messages.append(str(run.value))
    with pytest.raises(LampqError) as rehearsal:
        recognize(RECIPE, given=given(made(odd)))
    messages.append(str(rehearsal.value))
    assert odd.refused in messages[0]
    assert messages[0] == messages[1]
    assert run.value.hint
