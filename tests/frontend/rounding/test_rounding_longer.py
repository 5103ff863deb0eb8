"""Long training of a rounded model: what it gains, what it keeps, and its views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lampq_onnx.disk.cache import ArrayCache
from lampq_onnx.frontend.rounding import plan as planning
from lampq_onnx.frontend.rounding.effort import EFFORTS
from lampq_onnx.frontend.rounding.ladder import Rounding
from lampq_onnx.frontend.rounding.longer import LongerSettings, train_longer
from lampq_onnx.frontend.rounding.plan import RoundedPlan, plan_inputs, round_plan
from lampq_onnx.frontend.rounding.trainable import Trained
from lampq_onnx.frontend.rounding.tune import TuneSettings
from lampq_onnx.frontend.rounding.views import ImagePool
from lampq_onnx.frontend.shared.kept import NOT_KEPT, Kept
from lampq_onnx.frontend.simulation.simulate import WeightRounder
from lampq_onnx.running.progress import NO_PROGRESS
from tests.frontend.rounding.quantized import (
    FIT,
    HELD_OUT,
    by_hand,
    kl,
    live_copy,
    model_and_chain,
    nearest,
    quantizers,
    same,
    use,
    weights,
)
from tests.frontend.rounding.test_rounding_training import plan_3
from tests.frontend.tiny_models import layers_of, pixels

SETTINGS = LongerSettings(steps=60, warmup=5, rate=6.0)


def trained(settings: LongerSettings = SETTINGS, seed: int = 0) -> tuple[dict[str, Trained], list[int]]:
    roundings, inputs, steps = nearest(3), quantizers(4), list[int]()
    with live_copy() as (live, chain):
        use(live, roundings, inputs)
        before = live.model(pixels(3))
        blocks = [block.module for block in chain.blocks]
        images = list(torch.from_numpy(FIT.images).split(16))
        found = train_longer(live, roundings, inputs, images, blocks, settings, seed=seed, progress=steps.append)
        assert torch.equal(live.model(pixels(3)), before)
        assert not any(block._forward_hooks for block in blocks)
    return found, steps


def test_long_training_lowers_the_loss_on_images_it_has_not_seen() -> None:
    found, steps = trained()
    assert steps == list(range(1, SETTINGS.steps + 1))
    before = kl(by_hand(weights(nearest(3)), quantizers(4)), HELD_OUT).mean()
    inputs = {name: layer.input for name, layer in found.items() if layer.input is not None}
    after = kl(by_hand({name: layer.weight for name, layer in found.items()}, inputs), HELD_OUT).mean()
    assert after < 0.8 * before


def test_long_training_is_seeded() -> None:
    few = replace(SETTINGS, steps=4)

    def roundings(seed: int) -> dict[str, Rounding]:
        return {name: Rounding(own.weight, "", own.latent, {}) for name, own in trained(few, seed)[0].items()}

    assert same(roundings(0), roundings(0))
    assert not same(roundings(0), roundings(1))


def test_some_views_are_mixed_with_another_one_by_less_than_half() -> None:
    # Images of one value each: crops and mirror images do not change them.
    values = torch.arange(8.0)[:, None, None, None].expand(8, 1, 4, 4).clone()
    plain, mixed = ImagePool([values], 3).views(64), ImagePool([values], 3, mixed=0.5).views(64)
    own, other = plain[:, 0, 0, 0], plain.roll(1, 0)[:, 0, 0, 0]
    found = mixed.mean((1, 2, 3))
    different = own != other
    share = (found - own)[different] / (other - own)[different]
    assert ((share >= -1e-4) & (share <= 0.5)).all()
    assert 0.2 < float((share > 1e-4).double().mean()) < 0.8


@pytest.mark.parametrize("kept", [True, False])
def test_effort_max_ends_with_long_training(kept: bool) -> None:
    model, chain = model_and_chain()
    layers = layers_of(model)
    rate = 6.0 if kept else 300.0
    effort = replace(EFFORTS["max"], reconstruct=None, tune=None, longer=replace(SETTINGS, rate=rate, steps=20))
    found = round_plan(
        model, layers, chain, plan_3(), WeightRounder(layers), FIT, HELD_OUT, effort, seed=0, training_threads=1,
        progress=NO_PROGRESS,
    )  # fmt: skip
    assert list(found.losses) == ["layers", "long training"]
    assert found.kept["long training"] == kept
    assert all(method.endswith("+trained") == kept for method in found.methods.values())
    loss = float(kl(by_hand(found.weights, plan_inputs(found.plan)), HELD_OUT).mean())
    assert loss == pytest.approx(found.losses["long training" if kept else "layers"], rel=5e-2)
    assert np.isfinite(model(pixels(2)).detach().numpy()).all()


def test_training_that_diverges_is_undone() -> None:
    model, chain = model_and_chain()
    layers = layers_of(model)
    effort = replace(
        EFFORTS["max"], reconstruct=None, tune=None, longer=replace(SETTINGS, rate=1e30, steps=6, warmup=1)
    )
    found = round_plan(
        model, layers, chain, plan_3(), WeightRounder(layers), FIT, HELD_OUT, effort, seed=0, training_threads=1,
        progress=NO_PROGRESS,
    )  # fmt: skip
    assert found.kept == {"layers": True, "long training": False}
    assert found.losses["long training"] == pytest.approx(found.losses["layers"])
    assert all(np.isfinite(weight.scale).all() for weight in found.weights.values())


def test_a_run_that_was_stopped_in_the_long_training_goes_on_after_the_tuning(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    effort = replace(
        EFFORTS["max"], reconstruct=None, tune=TuneSettings(steps=3, warmup=1), longer=replace(SETTINGS, steps=3)
    )

    def rounded(kept: Kept = NOT_KEPT) -> RoundedPlan:
        model, chain = model_and_chain()
        layers = layers_of(model)
        return round_plan(
            model, layers, chain, plan_3(), WeightRounder(layers), FIT, HELD_OUT, effort, seed=0, training_threads=1,
            progress=NO_PROGRESS, finished=kept,
        )  # fmt: skip

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    whole = rounded()
    monkeypatch.setattr(planning, "train_longer", stopped)
    with pytest.raises(KeyboardInterrupt):
        rounded(Kept(ArrayCache(tmp_path), "key"))
    monkeypatch.undo()
    monkeypatch.setattr(planning, "tune", stopped)
    kept = Kept(ArrayCache(tmp_path), "key")
    found = rounded(kept)
    assert found.losses == whole.losses
    assert found.plan == whole.plan
    for name, weight in whole.weights.items():
        assert np.array_equal(found.weights[name].codes, weight.codes)
    kept.drop_parts()
    with pytest.raises(KeyboardInterrupt):
        rounded(Kept(ArrayCache(tmp_path), "key"))
