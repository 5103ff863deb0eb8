"""Small Vision Transformers as ONNX files of several exporters."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import torch

from tools.bench import exporters

SHAPE = (3, 16, 16)


def by_dynamo(model: torch.nn.Module, path: Path, opset: int) -> Path:
    """torch's present exporter, with a symbolic batch dimension."""
    return exporters.by_dynamo(model, path, opset, SHAPE)


def by_torchscript(model: torch.nn.Module, path: Path, opset: int, *, batch: int | None = None) -> Path:
    """torch's old exporter; a fixed batch size, or a symbolic one (None)."""
    return exporters.by_torchscript(model, path, opset, SHAPE, batch=batch)


def without_names(source: Path, path: Path) -> Path:
    """The same graph with numbered constants and nothing else that tells where a node comes from."""
    model = ir.load(source)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.name = None
    for index, value in enumerate(list(model.graph.initializers.values())):
        value.metadata_props.clear()
        value.name = f"t{index}"
    ir.save(model, path)
    return path


class SeparateAttention(torch.nn.Module):
    """Attention with a layer each for query, key and value, the key without a bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.value = torch.nn.Linear(width, width)
        self.key = torch.nn.Linear(width, width, bias=False)
        self.query = torch.nn.Linear(width, width)
        self.out = torch.nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value, key, query = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.value, self.key, self.query)
        )
        scores = (query @ key.transpose(-1, -2)) / (x.shape[-1] // self.heads) ** 0.5
        return self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))


class SeparateViT(torch.nn.Module):
    """One block of width 16 with `SeparateAttention` and the tanh form of GELU, mean over tokens, four classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.patches = torch.nn.Conv2d(3, 16, 4, 4)
        self.before, self.after, self.last = (torch.nn.LayerNorm(16) for _ in range(3))
        for norm in (self.before, self.after, self.last):
            torch.nn.init.normal_(norm.weight, 1.0, 0.3)
            torch.nn.init.normal_(norm.bias)
        self.attention = SeparateAttention(16, 2)
        self.wide, self.narrow = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)
        self.classifier = torch.nn.Linear(16, 4)
        self.eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = x + self.attention(self.before(x))
        x = x + self.narrow(torch.nn.functional.gelu(self.wide(self.after(x)), approximate="tanh"))
        return self.classifier(self.last(x).mean(1))
