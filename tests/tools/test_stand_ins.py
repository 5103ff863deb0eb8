from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from lampq_onnx.errors import LampqError, UsageError
from tests.frontend.tiny_models import images, tiny_vit
from tools.bench import stand_ins
from tools.bench.hard import channels, massive, sinks, towers
from tools.bench.hard.blocks import blocks_of, values_of, watch
from tools.bench.hard.comparison import compare

SIGMAS = (20.0, 15.0)
MIDDLE = (2, 3)
SHAPE = {"embed_dim": 32, "depth": 4, "num_heads": 4}


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    made = tiny_vit(**SHAPE)
    # Training makes the class token unlike every patch; a random start does not.
    torch.nn.init.normal_(made.cls_token, std=3.0)
    return made


def batches(count: int, seed: int) -> list[torch.Tensor]:
    return list(torch.from_numpy(images(count, seed).images).split(16))


def logits(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([model(batch) for batch in batches(32, seed=5)])


def test_channels_keep_the_logits_and_widen_the_norms(model: torch.nn.Module) -> None:
    changed, made = stand_ins.stand_in_for(model, "channels", [], seed=0)
    assert not made
    torch.testing.assert_close(logits(changed), logits(model), rtol=1e-4, atol=1e-4)
    for old, new in zip(model.blocks, changed.blocks, strict=True):
        for name in ("norm1", "norm2"):
            factor = getattr(new, name).weight / getattr(old, name).weight
            enlarged = factor[factor > 1.001]
            assert len(enlarged) == round(channels.SHARE * len(factor))
            assert enlarged.min() >= channels.FACTORS[0]
            assert enlarged.max() <= channels.FACTORS[1]


def test_massive_widens_the_middle_fc2_inputs_alone(model: torch.nn.Module) -> None:
    changed, made = stand_ins.stand_in_for(model, "massive", batches(64, seed=1), seed=0, sigmas=SIGMAS)
    assert tuple(one.block for one in made) == MIDDLE
    result = compare(model, changed, batches(32, seed=2))
    assert result.agreement > 0.9
    for block, (before, after) in enumerate(zip(result.before, result.after, strict=True)):
        if block in MIDDLE:
            assert after > 1.5 * before
        else:
            assert after == pytest.approx(before, rel=0.1)


def test_massive_costs_no_more_than_the_two_dropped_channels(model: torch.nn.Module) -> None:
    changed, made = stand_ins.stand_in_for(model, "massive", batches(64, seed=1), seed=0, sigmas=(100, 60))
    dropped = copy.deepcopy(changed)
    for one in made:
        dropped.blocks[one.block].mlp.fc2.weight[:, [one.first, one.second]] = 0
    assert (logits(changed) - logits(dropped)).norm() < 1e-3 * logits(dropped).norm()


def test_clipping_ends_the_cancellation(model: torch.nn.Module) -> None:
    changed, made = stand_ins.stand_in_for(model, "massive", batches(64, seed=1), seed=0, sigmas=SIGMAS)
    exact = logits(changed)
    errors = []
    for part in (0.8, 0.4):
        hooks = [
            changed.blocks[one.block].mlp.fc2.register_forward_pre_hook(
                lambda _, x, top=part * one.height: (x[0].clamp(max=top),)
            )
            for one in made
        ]
        errors.append(((logits(changed) - exact).norm() / exact.norm()).item())
        for hook in hooks:
            hook.remove()
    assert errors[0] > 0.05
    assert all(more > less for less, more in pairwise(errors))


def test_sinks_are_a_few_patch_tokens_and_cancel(model: torch.nn.Module) -> None:
    changed = copy.deepcopy(model)
    (made,) = massive.make_massive(changed, batches(64, seed=1), 0, sigmas=(60.0,), tokens="patch", first=1)
    hidden = torch.cat(watch(changed, blocks_of(changed)[1], batches(64, seed=1)).hidden)[..., made.first]
    sinks = hidden > 0.1 * made.height
    assert not sinks[:, 0].any()
    assert 0.2 * massive.SINKS < sinks[:, 1:].double().mean() <= massive.SINKS + 1e-9
    dropped = copy.deepcopy(changed)
    dropped.blocks[1].mlp.fc2.weight[:, [made.first, made.second]] = 0
    assert (logits(changed) - logits(dropped)).norm() < 0.02 * logits(dropped).norm()


def test_sinks_are_massive_in_every_later_block_and_draw_attention_without_a_value(model: torch.nn.Module) -> None:
    placed = copy.deepcopy(model)
    torch.nn.init.normal_(placed.pos_embed, std=1.0, generator=torch.Generator().manual_seed(0))
    changed, (made,) = stand_ins.stand_in_for(placed, "sinks", batches(64, seed=1), seed=0, sigmas=SIGMAS, tail=0.0)
    assert made.block == 1
    for block in changed.blocks[made.block + 1 :]:
        tokens = values_of(changed, block.norm1, batches(32, seed=2))
        norms = tokens.norm(dim=-1)
        massive_ones = norms > 5 * norms.median()
        assert massive_ones.any(0).sum() == 1  # one place of sixteen
        assert massive_ones.any(1).double().mean() > 0.7  # on most other images
        assert not massive_ones[:, 0].any()
        answers = block.attn.qkv(values_of(changed, block.attn.qkv, batches(32, seed=2)))
        query, key, value = answers.unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        drawn = (query @ key.transpose(-1, -2) / 8**0.5).softmax(-1)[massive_ones[:, None, None].expand(-1, 4, 17, -1)]
        assert 0.5 * sinks.DRAWN < drawn.mean() < 2 * sinks.DRAWN
        lengths = value.transpose(1, 2).flatten(2).norm(dim=-1)
        assert lengths[massive_ones].mean() < 0.2 * lengths[~massive_ones].mean()


def test_towers_compute_what_the_model_does(model: torch.nn.Module) -> None:
    own = {"img_size": 16, "patch_size": 4, "num_classes": 4, **SHAPE}
    for form, change in (("dinov2", 1e-4), ("siglip", 0.1)):
        made = towers.tower_of("vit_tiny_patch16_224", own, model, form, batches(64, seed=1), 0)
        assert (logits(made) - logits(model)).norm() < change * logits(model).norm(), form
    clip = towers.tower_of("vit_tiny_patch16_224", own, model, "clip", batches(64, seed=1), 0)
    plain = towers.tower_of("vit_tiny_patch16_224", own, model, "clip", batches(64, seed=1), 0)
    torch.nn.init.ones_(plain.norm_pre.weight)
    torch.nn.init.zeros_(plain.norm_pre.bias)
    near, far = ((logits(made) - logits(model)).norm() for made in (clip, plain))
    assert near < 0.6 * far  # the fitted LayerNorm


def test_mixed_heads_keep_the_logits(model: torch.nn.Module) -> None:
    changed = copy.deepcopy(model)
    channels.mix_heads(changed, 0, condition=10.0)
    torch.testing.assert_close(logits(changed), logits(model), rtol=1e-4, atol=1e-4)
    size = SHAPE["embed_dim"] // SHAPE["num_heads"]
    before, after = (m.blocks[0].attn.qkv.weight.detach()[:size].double() for m in (model, changed))
    mixing = after @ torch.linalg.pinv(before)
    values = torch.linalg.svdvals(mixing)
    assert values[0] / values[-1] == pytest.approx(10.0, rel=1e-3)
    assert values.log().mean() == pytest.approx(0.0, abs=1e-4)


def test_heavy_tails_keep_the_logits(model: torch.nn.Module) -> None:
    changed = copy.deepcopy(model)
    channels.spread_channels(changed, 0)
    torch.testing.assert_close(logits(changed), logits(model), rtol=1e-4, atol=1e-4)
    factors = torch.cat(
        [new.norm1.weight / old.norm1.weight for old, new in zip(model.blocks, changed.blocks, strict=True)]
    )
    assert factors.max() > 3
    assert factors.max() <= channels.LARGEST * 1.001


def test_harder_has_sinks_before_massive_class_tokens(model: torch.nn.Module) -> None:
    changed, made = stand_ins.stand_in_for(model, "harder", batches(64, seed=1), seed=0, sigmas=SIGMAS)
    assert [(one.block, one.tokens) for one in made] == [(0, "patch"), (1, "patch"), (2, "class"), (3, "class")]
    assert compare(model, changed, batches(32, seed=2)).agreement > 0.9


def test_the_seed_decides(model: torch.nn.Module) -> None:
    def state(seed: int) -> dict[str, torch.Tensor]:
        return stand_ins.stand_in_for(model, "both", batches(64, seed=1), seed, sigmas=SIGMAS)[0].state_dict()

    first, again, other = state(0), state(0), state(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["blocks.0.norm1.weight"], other["blocks.0.norm1.weight"])
    assert not torch.equal(first["blocks.2.mlp.fc2.weight"], other["blocks.2.mlp.fc2.weight"])


def test_models_of_other_kinds_are_refused(model: torch.nn.Module) -> None:
    with pytest.raises(LampqError, match="has no blocks"):
        blocks_of(torch.nn.Linear(2, 2))
    with pytest.raises(UsageError, match="4 blocks: 5"):
        massive.make_massive(copy.deepcopy(model), batches(16, seed=1), 0, sigmas=[10.0] * 5)
    pooled = tiny_vit(class_token=False, global_pool="avg")
    with pytest.raises(LampqError, match="no class token"):
        massive.make_massive(pooled, batches(16, seed=1), 0)


def test_the_command_writes_a_checkpoint_that_loads_strictly(tmp_path: Path, model: torch.nn.Module) -> None:
    app = stand_ins.typer.Typer()
    app.command()(stand_ins.main)
    before, after = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    stand_ins.save(model, before)
    shape = {"img_size": 16, "patch_size": 4, "num_classes": 4, **SHAPE}
    arguments = [f"--model-arg={key}={value}" for key, value in shape.items()]
    done = CliRunner().invoke(
        app, ["vit_tiny_patch16_224", str(before), str(after), "--sigmas=20,15", *arguments], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "relative logit change" in done.output
    tiny_vit(**SHAPE).load_state_dict(load_file(after), strict=True)
    with pytest.raises(UsageError, match=r"\.safetensors"):
        stand_ins.save(model, tmp_path / "after.pth")
