"""Write Vision Transformers as ONNX files with the exporters that other people use."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.task_model import NamedOutputs

Shape = tuple[int, int, int]
"""(channels, height, width) of an image."""

SAME = 1e-4
"""Relative difference (L2) of outputs that float rounding explains."""


def by_dynamo(model: torch.nn.Module, path: Path, opset: int, shape: Shape) -> Path:
    """torch's present exporter, with a symbolic batch dimension."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model,
            (torch.zeros(2, *shape),),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    program.save(path)
    return path


def by_torchscript(model: torch.nn.Module, path: Path, opset: int, shape: Shape, *, batch: int | None = None) -> Path:
    """torch's old exporter; a fixed batch size, or a symbolic one (None)."""
    axes = {"pixel_values": {0: "batch"}, "logits": {0: "batch"}} if batch is None else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(batch or 2, *shape),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_axes=axes,
        )
    return path


def transformers_vit(model: Any, shape: Shape) -> torch.nn.Module:
    """transformers' ViTForImageClassification with the weights of a timm VisionTransformer; returns logits.

    Raises:
        LampqError: the two compute different things, as where the timm model has parts that the other lacks.
    """
    from transformers import ViTConfig, ViTForImageClassification

    first = model.blocks[0]
    config = ViTConfig(
        hidden_size=model.embed_dim,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=first.attn.num_heads,
        intermediate_size=first.mlp.fc1.out_features,
        hidden_act="gelu",
        layer_norm_eps=first.norm1.eps,
        image_size=shape[1:],
        patch_size=model.patch_embed.patch_size,
        num_channels=shape[0],
        num_labels=model.num_classes,
        attn_implementation="eager",
    )
    other = ViTForImageClassification(config).eval().requires_grad_(False)
    embeddings = other.vit.embeddings
    embeddings.cls_token.copy_(model.cls_token)
    embeddings.position_embeddings.copy_(model.pos_embed)
    # The order of modules is the same in all versions of transformers; their names are not.
    _copy(_modules(other, torch.nn.Conv2d), [(model.patch_embed.proj.weight, model.patch_embed.proj.bias)])
    linears, norms = [], []
    for block in model.blocks:
        qkv = block.attn.qkv
        biases = [None] * 3 if qkv.bias is None else qkv.bias.chunk(3)
        linears += list(zip(qkv.weight.chunk(3), biases, strict=True))
        linears += [(layer.weight, layer.bias) for layer in (block.attn.proj, block.mlp.fc1, block.mlp.fc2)]
        norms += [(norm.weight, norm.bias) for norm in (block.norm1, block.norm2)]
    _copy(_modules(other, torch.nn.Linear), [*linears, (model.head.weight, model.head.bias)])
    _copy(_modules(other, torch.nn.LayerNorm), [*norms, (model.norm.weight, model.norm.bias)])
    wrapped = NamedOutputs(other, ("logits",)).eval()
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model(images)
        change = float((wrapped(images) - wanted).norm() / wanted.norm())
    if not change <= SAME:
        raise LampqError(
            f"transformers' ViT with these weights differs from timm's model by {change:.1e} (relative)",
            hint="only a plain ViT or DeiT with a class token has a counterpart there",
        )
    return wrapped


def _modules(model: torch.nn.Module, kind: type[torch.nn.Module]) -> list[torch.nn.Module]:
    return [module for module in model.modules() if isinstance(module, kind)]


def _copy(modules: list[torch.nn.Module], parameters: list[tuple[torch.Tensor, torch.Tensor | None]]) -> None:
    for module, (weight, bias) in zip(modules, parameters, strict=True):
        state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        module.load_state_dict(state)
