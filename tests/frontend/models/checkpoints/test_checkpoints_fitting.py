"""The model's weights are found wherever a training tool put them; what is not used is said."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.checkpoints.fitting import load_weights
from lampq_onnx.frontend.models.checkpoints.shapes import described_arguments, guess_vit_arguments
from lampq_onnx.frontend.models.loading import load_timm
from lampq_onnx.frontend.shared.loaded import weights_hash
from tests.frontend.models.checkpoints.saved import ARGS, NAME, empty, holds, saved, under, weights
from tests.frontend.tiny_models import tiny_vit


def load(module: torch.nn.Module, path: Path, key: str | None = None) -> torch.nn.Module:
    load_weights(module, NAME, path, key)
    return module


@pytest.mark.parametrize(
    "prefix",
    [
        "", "module.", "model.", "net.", "backbone.", "encoder.", "_orig_mod.", "_orig_mod.module.",
        "module._orig_mod.", "model._orig_mod.module.net.", "student_net.a.b.c.", "0.",
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "table", ["", "state_dict", "model", "state_dict_ema", "model_ema", "ema_state_dict", "a.b", "weights.0"]
)
def test_any_prefix_in_any_table(prefix: str, table: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content: object = under(prefix, weights())
    for key in reversed(table.split(".") if table else []):
        content = [content] if key.isdigit() else {key: content, "epoch": 3}
    assert holds(load(empty(), saved(tmp_path, content)), weights())
    assert caplog.messages == []


def test_wrappers_within_names_do_not_matter(tmp_path: Path) -> None:
    state = {key.replace("blocks.1.", "blocks.1._orig_mod."): value for key, value in weights().items()}
    state = {key.replace(".mlp.", "._checkpoint_wrapped_module.mlp."): value for key, value in state.items()}
    assert holds(load(empty(), saved(tmp_path, {"state_dict": under("model.", state)})), weights())


def test_left_over_tensors_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = under("model.", weights()) | {"criterion.weight": torch.ones(4), "model.decoder.weight": torch.ones(2)}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
    path = saved(tmp_path, {"state_dict": state, "optimizer_states": [optimizer], "epoch": 3}, "last.ckpt")
    assert holds(load(empty(), path), weights())
    (message,) = caplog.messages
    assert message.startswith(f"{path}: 4 tensors are not used: ")
    for name in ("state_dict.criterion.weight", "state_dict.model.decoder.weight", "optimizer_states.0"):
        assert name in message
    assert message.endswith("and 1 more")


def test_a_head_is_left_over_where_the_model_has_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path, weights())
    module = load(empty(num_classes=0), path)
    assert holds(module, {key: value for key, value in weights().items() if not key.startswith("head.")})
    assert caplog.messages == [f"{path}: 2 tensors are not used: head.weight, head.bias"]


@pytest.mark.parametrize(
    "changes",
    [{"depth": 1}, {"qkv_bias": False}, {"class_token": False, "global_pool": "avg", "no_embed_class": True}],
    ids=["depth", "qkv-bias", "class-token"],
)
def test_tensors_within_the_model_s_own_parts_are_never_left_over(changes: dict[str, object], tmp_path: Path) -> None:
    """The weights would load, and the model would compute something else."""
    state = dict(tiny_vit(no_embed_class=True).state_dict()) if "no_embed_class" in changes else weights()
    with pytest.raises(LampqError, match="does not fit"):
        load(empty(**changes), saved(tmp_path, state))


def test_layer_scale_and_norms_that_the_model_was_built_without(tmp_path: Path) -> None:
    state = weights()
    for extra in ("blocks.0.ls1.gamma", "norm_pre.weight", "reg_token", "head.bias2"):
        with pytest.raises(LampqError, match=rf"1 unknown \({extra}\)"):
            load(empty(), saved(tmp_path, {**state, extra: torch.ones(16)}))


def test_buffers_that_the_model_computes_itself_may_be_stored(tmp_path: Path) -> None:
    import timm

    arguments = {"img_size": 16, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (2,), "num_heads": (2,)}
    module = timm.create_model("swin_tiny_patch4_window7_224", **arguments, num_classes=4)
    derived = {key: value for key, value in module.named_buffers() if key not in module.state_dict()}
    assert derived
    torch.manual_seed(5)
    state = {key: torch.randn_like(value) for key, value in module.state_dict().items()}
    load(module, saved(tmp_path, {"model": {**state, **derived}}))
    assert holds(module, state)


def test_averages_are_preferred_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for raw, average in (
        ("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema"), ("state_dict", "ema_state_dict"),
    ):  # fmt: skip
        caplog.clear()
        content = {raw: weights(0), average: under("module.", weights(1)), "epoch": 3}
        path = saved(tmp_path, content)
        assert holds(load(empty(), path), weights(1))
        (message,) = caplog.messages
        assert f"those of {average}.module, an average" in message
        assert f"those of {raw} are not used" in message
        assert holds(load(empty(), path, raw), weights(0))
        assert holds(load(empty(), path, average), weights(1))
    inside = {"state_dict": under("model.", weights(0)) | under("ema_model.module.", weights(1))}
    assert holds(load(empty(), saved(tmp_path, inside)), weights(1))


def test_an_average_that_is_not_whole_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    part = {key: value for key, value in weights(1).items() if key != "norm.bias"}
    assert holds(load(empty(), saved(tmp_path, {"model": weights(0), "model_ema": part})), weights(0))
    assert any("model_ema is incomplete" in message for message in caplog.messages)
    assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_of_student_and_teacher_the_user_chooses(tmp_path: Path) -> None:
    content = {"student": under("module.backbone.", weights(0)), "teacher": under("backbone.", weights(1)), "epoch": 3}
    path = saved(tmp_path, content)
    with pytest.raises(LampqError, match="several sets of weights that fit") as caught:
        load(empty(), path)
    assert "student.module.backbone" in caught.value.message
    assert "teacher.backbone" in caught.value.message
    assert "--checkpoint-key" in caught.value.hint
    for key, seed in (("student", 0), ("teacher", 1), ("teacher.backbone", 1), ("student.module", 0)):
        assert holds(load(empty(), path, key), weights(seed))
    same = saved(tmp_path, {"student": weights(0), "teacher": weights(0)}, "same.pth")
    with pytest.raises(LampqError, match="student, teacher"):
        load(empty(), same)
    with pytest.raises(LampqError, match="no tensors under 'teach'") as caught:
        load(empty(), path, "teach")
    assert "teacher (32 tensors)" in caught.value.hint
    two = saved(tmp_path, {"ema_teacher": weights(0), "ema_student": weights(1), "model": weights(2)}, "two.pth")
    with pytest.raises(LampqError, match="several sets"):
        load(empty(), two)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_cast_and_said(kind: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = {key: value.to(kind) for key, value in weights().items()}
    module = load(empty(), saved(tmp_path, state))
    assert holds(module, state)
    assert all(value.dtype == torch.float32 for value in module.state_dict().values())
    (message,) = caplog.messages
    assert f"{len(state)} tensors stored as {str(kind)[6:]} are converted to float32" in message


def test_eight_bit_floats_and_integers_are_no_weights(tmp_path: Path) -> None:
    for kind in (torch.float8_e4m3fn, torch.int8, torch.bool, torch.complex64):
        state = weights() | {"head.weight": weights()["head.weight"].to(kind)}
        with pytest.raises(LampqError, match=r"the tensor m\.head\.weight of .*file\.pth is of type"):
            load(empty(), saved(tmp_path, under("m.", state)))


def test_a_tensor_that_is_not_finite_is_named(tmp_path: Path) -> None:
    state = weights()
    state["blocks.1.attn.proj.weight"][0, 0] = torch.nan
    with pytest.raises(LampqError, match=r"blocks\.1\.attn\.proj\.weight of .*file\.pth holds NaN"):
        load_timm(NAME, checkpoint=saved(tmp_path, {"state_dict": under("model.", state)}), model_args=ARGS)


def test_the_identity_is_that_of_the_numbers_whatever_the_file(tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    safetensors.torch.save_file(weights(), plain)
    nested = saved(tmp_path, {"state_dict_ema": under("module.", weights()), "args": None}, "best.pth.tar")
    hashes = {load_timm(NAME, checkpoint=p, model_args=ARGS).identity.weights_sha256 for p in (plain, nested)}
    assert hashes == {weights_hash(tiny_vit())}


def test_a_misfit_under_a_prefix_says_what_would_fit(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": under("net.", weights())})
    with pytest.raises(LampqError, match=r"does not fit .*under state_dict\.net") as caught:
        load(empty(depth=3, num_classes=7), path)
    assert "8 missing" not in caught.value.message
    assert "12 missing (blocks.2." in caught.value.message
    assert "2 of other shape (head.bias is (4,) in the file and (7,) in the model)" in caught.value.message
    for word in ("img_size=16", "depth=2", "num_classes=4"):
        assert word in caught.value.hint


def test_one_file_of_several(tmp_path: Path) -> None:
    half = dict(list(weights().items())[:10])
    with pytest.raises(LampqError, match="missing") as caught:
        load(empty(), saved(tmp_path, half, "pytorch_model-00001-of-00002.bin"))
    assert "index.json" in caught.value.hint


def test_shapes_of_images_that_are_not_square() -> None:
    state = tiny_vit(img_size=(16, 32)).state_dict()
    assert "img_size" not in guess_vit_arguments(state)
    assert "img_size=[height,width] with height/4 * width/4 = 32" in described_arguments(state)
    assert guess_vit_arguments(tiny_vit(reg_tokens=3).state_dict())["img_size"] == 16
