"""Blocks in order: resuming anywhere gives the model's own outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.export import export_model
from lampq_onnx.frontend.simulation.chain import BlockChain
from lampq_onnx.frontend.simulation.class_row import find_class_row
from tests.frontend.tiny_models import layers_of, loaded, pixels, tiny_vit, untouched


class ByKeyword(torch.nn.Sequential):
    """Blocks that get their tensor by keyword: nothing tells what to skip them with."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self:
            x = block(x=x)
        return x


class Twice(torch.nn.Sequential):
    """Blocks that run twice each."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in (*self, *self):
            x = block(x)
        return x


def tiny_swin() -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=32, patch_size=4, window_size=4, embed_dim=16, depths=(2, 2),
        num_heads=(2, 4), num_classes=4,
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    return model.eval().requires_grad_(False)


def chain_of(model: torch.nn.Module) -> BlockChain:
    return BlockChain(model, layers_of(model), torch.zeros(1, 3, 16, 16))


def assert_resumes_everywhere(chain: BlockChain, batches: list[torch.Tensor]) -> None:
    expected = torch.cat([chain.model(batch) for batch in batches])
    advanced = chain.states(batches)
    for index in range(len(chain)):
        if index:
            advanced = chain.advance(advanced)
        for states in (chain.states(batches, index), advanced):
            assert states.start == index
            assert len(states) == len(expected)
            torch.testing.assert_close(chain.logits(states), expected, rtol=1e-5, atol=1e-6)
    assert untouched(chain.model)


def test_layers_of_the_tests_are_the_exports() -> None:
    model = tiny_vit()
    assert export_model(loaded(model)).layers == layers_of(model)


def test_a_vit_can_be_resumed_at_any_block() -> None:
    chain = chain_of(tiny_vit(depth=3))
    assert [block.name for block in chain.blocks] == ["blocks.0", "blocks.1", "blocks.2"]
    assert [layer.name for layer in chain.before] == ["patch_embed.proj"]
    assert [layer.name for layer in chain.after] == ["head"]
    assert [layer.type for layer in chain.blocks[1].layers] == ["qkv", "proj", "fc1", "fc2"]
    assert [chain.index_of(layer) for layer in layers_of(chain.model)] == [0, *[0] * 4, *[1] * 4, *[2] * 4, 2]
    assert_resumes_everywhere(chain, [pixels(3), pixels(2, seed=1), pixels(1, seed=2)])


def test_states_are_those_of_the_model_as_it_computes_now() -> None:
    chain, batch = chain_of(tiny_vit()), pixels(2)
    states = chain.states([batch], 1)
    before = chain.logits(states)
    chain.blocks[0].module.mlp.fc2.weight.data *= 2
    assert torch.equal(chain.logits(states), before)  # block 0 is not computed again
    assert not torch.allclose(chain.logits(chain.advance(chain.states([batch]))), before, atol=1e-3)
    chain.blocks[1].module.mlp.fc2.weight.data *= 2
    assert not torch.allclose(chain.logits(states), before, atol=1e-3)
    torch.testing.assert_close(chain.logits(chain.states([batch], 1)), chain.model(batch), rtol=1e-5, atol=1e-6)


def test_only_what_is_needed_runs() -> None:
    chain = chain_of(tiny_vit(depth=3))
    ran: list[str] = []
    for layer in layers_of(chain.model):
        layer.module.register_forward_hook(lambda *_, name=layer.name: ran.append(name))
    states = chain.states([pixels(2)], 1)
    assert "blocks.1.attn.qkv" not in ran
    ran.clear()
    chain.run_block(states)
    assert ran == [layer.name for layer in chain.blocks[1].layers]
    ran.clear()
    chain.advance(states)
    assert {name for name in ran if name.startswith("blocks")} == {layer.name for layer in chain.blocks[1].layers}
    ran.clear()
    chain.logits(states)
    assert not any(name.startswith("blocks.0") for name in ran)


def test_a_block_can_stop_at_a_layer() -> None:
    chain = chain_of(tiny_vit(depth=2))
    states = chain.states([pixels(2), pixels(1)], 1)
    ran: list[str] = []
    for layer in chain.blocks[1].layers:
        layer.module.register_forward_hook(lambda *_, name=layer.name: ran.append(name))
    chain.run_block(states, until=chain.blocks[1].module.mlp.fc1)
    assert ran == ["blocks.1.attn.qkv", "blocks.1.attn.proj"] * 2
    ran.clear()
    chain.run_block(states)
    assert ran == [layer.name for layer in chain.blocks[1].layers] * 2


def rows_of(chain: BlockChain) -> dict[str, int]:
    """Layer of the last block -> rows of its output while outputs are computed."""
    rows: dict[str, int] = {}
    handles = [
        layer.module.register_forward_hook(lambda _, __, out, name=layer.type: rows.update({name: out.shape[1]}))
        for layer in chain.blocks[-1].layers
    ]
    chain.logits(chain.states([pixels(2)]))
    for handle in handles:
        handle.remove()
    return rows


def test_the_last_block_computes_the_class_token_alone() -> None:
    chain = chain_of(tiny_vit(depth=3))
    assert rows_of(chain) == {"qkv": 17, "proj": 1, "fc1": 1, "fc2": 1}
    assert untouched(chain.model)


class ImagesInRows(torch.nn.Module):
    """A block that computes with (tokens, images, channels): its first row is not a token."""

    def __init__(self, block: torch.nn.Module) -> None:
        super().__init__()
        self.attn, self.norm1, self.norm2, self.mlp = block.attn, block.norm1, block.norm2, block.mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x).transpose(0, 1)).transpose(0, 1)


def test_models_that_need_all_rows_compute_them() -> None:
    assert set(rows_of(chain_of(tiny_vit(depth=2, global_pool="avg"))).values()) == {17}
    model = tiny_vit(depth=2)
    model.blocks[1] = ImagesInRows(model.blocks[1])
    rows = rows_of(chain_of(model))
    assert (rows["proj"], rows["fc1"]) == (1, 2)  # two images in rows


def fails_after_the_first(error: Exception) -> Callable[[], torch.Tensor]:
    """Outputs with all rows, and an error with one."""
    answers = iter([torch.ones(2, 3)])

    def outputs() -> torch.Tensor:
        for answer in answers:
            return answer
        raise error

    return outputs


@pytest.mark.parametrize("error", [RuntimeError("shape"), IndexError("row 5"), ValueError("size"), AssertionError()])
def test_a_model_that_refuses_one_row_computes_all(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "lampq_onnx"):
        found = find_class_row(layers_of(tiny_vit()), fails_after_the_first(error))
    assert found.modules == ()
    assert "the inputs of proj and fc1 need all rows" in caplog.text


NO_MEMORY = "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 1 EiB"


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("no memory"), RuntimeError(NO_MEMORY), TypeError("a hook"), KeyError("a hook")],
)
def test_what_has_nothing_to_do_with_rows_is_not_hidden(error: Exception) -> None:
    with pytest.raises(type(error)):
        find_class_row(layers_of(tiny_vit()), fails_after_the_first(error))


def test_resuming_is_differentiable() -> None:
    chain, batch = chain_of(tiny_vit()), pixels(2)
    (arguments, size), *_ = chain.states([batch], 1)
    leaf = arguments[0].clone().requires_grad_()
    found = torch.autograd.grad(chain.resume(1, (leaf, *arguments[1:]), size).square().sum(), leaf)[0]
    kept: list[torch.Tensor] = []

    def start(_: torch.nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[0]

    handle = chain.blocks[0].module.register_forward_hook(start)
    expected = torch.autograd.grad(chain.model(batch).square().sum(), kept)[0]
    handle.remove()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("container", [ByKeyword, Twice])
def test_blocks_that_cannot_be_skipped_are_one(container: type[torch.nn.Sequential]) -> None:
    model = tiny_vit()
    model.blocks = container(*model.blocks)
    chain = chain_of(model)
    assert [(block.name, block.module) for block in chain.blocks] == [("", model)]
    assert {layer.name for layer in chain.blocks[0].layers} == {layer.name for layer in layers_of(model)}
    assert chain.before == chain.after == ()
    assert {chain.index_of(layer) for layer in layers_of(model)} == {0}
    assert_resumes_everywhere(chain, [pixels(3), pixels(2, seed=1)])


def test_swin_stages_are_not_blocks() -> None:
    model = tiny_swin()
    layers = tuple(layer for layer in layers_of(model) if layer.type != "head")
    chain = BlockChain(model, layers, torch.zeros(1, 3, 32, 32))
    assert [block.name for block in chain.blocks] == [f"layers.{i}.blocks.{j}" for i in range(2) for j in range(2)]
    assert all([layer.type for layer in block.layers] == ["qkv", "proj", "fc1", "fc2"] for block in chain.blocks)
    generator = torch.Generator().manual_seed(0)
    assert_resumes_everywhere(chain, [torch.randn(n, 3, 32, 32, generator=generator) for n in (2, 3)])


def test_nothing_stays_patched_after_an_exception() -> None:
    chain, batch = chain_of(tiny_vit()), pixels(2)
    expected = chain.model(batch)
    states = chain.states([batch], 1)

    def fail(*_: object) -> None:
        raise RuntimeError("inside")

    for name in ("blocks.1.mlp.fc1", "blocks.0.mlp.fc1", "patch_embed.proj"):
        handle = chain.model.get_submodule(name).register_forward_pre_hook(fail)
        act = (lambda: chain.logits(states)) if name != "blocks.0.mlp.fc1" else (lambda: chain.states([batch], 1))
        with pytest.raises(RuntimeError, match="inside"):
            act()
        handle.remove()
        assert untouched(chain.model)
        assert torch.equal(chain.model(batch), expected)


def test_an_own_forward_is_put_back() -> None:
    chain, batch = chain_of(tiny_vit()), pixels(2)
    block = chain.blocks[1].module
    original = block.forward

    def doubled(x: torch.Tensor) -> torch.Tensor:
        return 2 * original(x)

    block.forward = doubled
    torch.testing.assert_close(chain.logits(chain.states([batch], 1)), chain.model(batch), rtol=1e-5, atol=1e-6)
    assert block.__dict__["forward"] is doubled


def test_a_block_that_is_not_reached_is_named() -> None:
    chain = chain_of(tiny_vit())
    chain.model.blocks = torch.nn.Sequential(chain.model.blocks[0])
    with pytest.raises(LampqError, match=r"blocks\.1 is not reached"):
        chain.states([pixels(1)], 1)
