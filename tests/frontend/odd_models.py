"""Modules that users may bring and that are built in unusual ways: each is taken, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, weight_norm

WIDTH, SIDE, CLASSES = 16, 16, 4
TOKENS = (SIDE // 4) ** 2


class Attention(nn.Module):
    """Attention over tokens; subclasses call the product in other ways."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """(n, heads, tokens, channels) each."""
        return functional.scaled_dot_product_attention(q, k, v)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(self.attend(q, k, v).transpose(1, 2).reshape(n, t, WIDTH))


class Block(nn.Module):
    def __init__(self, attention: type[Attention] = Attention) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = attention()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(functional.gelu(self.fc1(self.norm2(x))))


class Plain(nn.Module):
    """A Vision Transformer of one block; the odd ones change a part of it."""

    def __init__(self, attention: type[Attention] = Attention, patch: nn.Module | None = None) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 4, 4) if patch is None else patch
        self.position = nn.Parameter(torch.randn(1, TOKENS, WIDTH))
        self.block = Block(attention)
        self.head = nn.Linear(WIDTH, CLASSES)

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        return self.patch(images).flatten(2).transpose(1, 2) + self.position

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        return self.block(self.tokens(images)).mean(1)

    def forward(self, images: torch.Tensor) -> Any:
        return self.head(self.pooled(images))


class AddsInPlace(Plain):
    """Overwrites what the patch layer gave, and the images it was given."""

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        images.sub_(0.1).div_(1.5)
        x = self.patch(images).flatten(2).transpose(1, 2)
        x += self.position
        x[:, :2] = x[:, :2] * 2
        return x


class InPlaceBlock(Block):
    """Overwrites its input, that of fc1, and what fc1 gave."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.add_(self.attn(self.norm1(x)))
        y = self.norm2(x)
        h = functional.gelu(self.fc1(y))
        y.mul_(0.5)
        x += self.fc2(h.mul_(2)) + y
        return functional.relu_(x)


class InPlaceBlocks(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(InPlaceBlock(), InPlaceBlock())


class TokensInThreeDimensions(Attention):
    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        n, h, t, d = q.shape
        bias = torch.linspace(-1, 1, t * t).reshape(1, t, t)
        q, k, v = (part.reshape(n * h, t, d) for part in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v, bias, scale=0.3).reshape(n, h, t, d)


class WindowsWithMask(Attention):
    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        n, h, t, d = q.shape
        q, k, v = (part.reshape(n, h, 2, t // 2, d).transpose(1, 2) for part in (q, k, v))
        mask = torch.ones(2, 1, t // 2, t // 2, dtype=torch.bool).tril()
        found = functional.scaled_dot_product_attention(q, k, v, mask)
        return found.transpose(1, 2).reshape(n, h, t, d)


class Causal(Attention):
    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(q, k, v, None, 0.0, True)


class RootProduct(Plain):
    """Its head is a product with a Parameter, as of text features."""

    def __init__(self) -> None:
        super().__init__()
        self.text = nn.Parameter(torch.randn(CLASSES, WIDTH))
        self.head = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.pooled(images)
        return features / features.norm(dim=-1, keepdim=True) @ self.text.T


class SharedWeights(Plain):
    """fc1 of two blocks is one Parameter in two modules."""

    def __init__(self) -> None:
        super().__init__()
        first, second = Block(), Block()
        second.fc1.weight = first.fc1.weight
        self.block = nn.Sequential(first, second)


class LayerUsedTwice(Plain):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.pooled(images)
        return self.head(self.block.fc2(self.block.fc1(x)))


class UnusedLayer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(WIDTH, WIDTH)


class BufferWeights(Plain):
    def __init__(self) -> None:
        super().__init__()
        weight = self.head.weight.detach()
        del self.head.weight
        self.head.register_buffer("weight", weight)


class IdentityHead(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()


class Lora(nn.Linear):
    """A Linear that computes more than its product."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + (x @ self.down.T) @ self.up.T


class WithLora(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.block.fc1 = Lora(WIDTH, 2 * WIDTH)


class Parametrized(Plain):
    def __init__(self) -> None:
        super().__init__()
        parametrizations.weight_norm(self.block.fc1)
        parametrizations.orthogonal(self.block.attn.proj)


class OldWeightNorm(Plain):
    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            weight_norm(self.block.fc1)


class BatchNorms(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm1d(WIDTH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.normalize(self.pooled(images)))


class WithoutStatistics(BatchNorms):
    def __init__(self) -> None:
        super().__init__()
        self.normalize = nn.BatchNorm1d(WIDTH, track_running_stats=False)


class Dropped(Plain):
    """In training mode, with dropout; evaluation mode ends it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(functional.dropout(self.pooled(images), 0.5, self.training))


class AlwaysDropped(Plain):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(functional.dropout(self.pooled(images), 0.5, True))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 2 * gradient


class Backless(Doubled):
    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("nobody wrote this backward")


class OwnGradient(Plain):
    kind: type[torch.autograd.Function] = Doubled

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.kind.apply(self.pooled(images)))


class NoBackward(OwnGradient):
    kind = Backless


class WithoutGradient(Plain):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.head(self.pooled(images))


class Answers(Plain):
    """Answers in another form."""

    def __init__(self, form: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.form = form

    def forward(self, images: torch.Tensor) -> Any:
        return self.form(self.head(self.pooled(images)))


class Branching(Plain):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.pooled(images)
        return self.head(x if float(x.sum()) > 0 else -x)


class TwoInputs(Plain):
    def forward(self, images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.pooled(images) * mask)


class ChannelsLast(Plain):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.pooled(images.permute(0, 3, 1, 2)))


class Named(Plain):
    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.head(self.pooled(batch["pixel_values"]))


class Vectors(nn.Module):
    """Takes vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(10, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.reshape(-1, 10))


class Convolutions(nn.Module):
    """Has no layer that is quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CLASSES, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3))


class NothingToLearn(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class ComplexMixing(Plain):
    """A complex product between layers, as of a Fourier mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(WIDTH, dtype=torch.complex64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head((self.pooled(images) * self.mix).real)


class FixedBatch(Plain):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.pooled(images).reshape(2, WIDTH))


class ByKeyword(Plain):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(input=self.pooled(images))


def _hooked() -> nn.Module:
    model = Plain()
    model.block.fc1.register_forward_hook(lambda _, __, output: output * 2)
    return model


@dataclass(frozen=True)
class Odd:
    """One row.

    Attributes:
        make: the module; it is seeded by the caller.
        layers: layers that get a width.
        skipped: layer -> part of the reason for which it does not.
        refused: part of the message for which the model is refused; empty where it is taken.
    """

    make: Callable[[], nn.Module]
    layers: int = 6
    skipped: tuple[tuple[str, str], ...] = ()
    refused: str = ""


ODD: dict[str, Odd] = {
    "plain": Odd(Plain),
    "first layer's output overwritten": Odd(AddsInPlace),
    "blocks that overwrite": Odd(InPlaceBlocks, 10),
    "padding valid": Odd(lambda: Plain(patch=nn.Conv2d(3, WIDTH, 4, 4, padding="valid"))),
    "padding same": Odd(
        lambda: Plain(patch=nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding="same"), nn.AvgPool2d(4))),
        5, (("patch.0", "its patches overlap"),),
    ),
    "dilated patches": Odd(
        lambda: Plain(patch=nn.Conv2d(3, WIDTH, 2, 4, dilation=2)), 5, (("patch", "its patches overlap"),)
    ),
    "circular padding": Odd(
        lambda: Plain(patch=nn.Conv2d(3, WIDTH, 6, 4, padding=1, padding_mode="circular")),
        5, (("patch", "its patches overlap"),),
    ),
    "attention in three dimensions, with a bias": Odd(lambda: Plain(TokensInThreeDimensions)),
    "attention in five dimensions, with a mask": Odd(lambda: Plain(WindowsWithMask)),
    "causal attention": Odd(lambda: Plain(Causal)),
    "product at the root": Odd(RootProduct, 5, (("node_matmul", "no single Linear"),)),
    "shared weights": Odd(SharedWeights, 10),
    "layer used twice": Odd(LayerUsedTwice, 4, (
        ("block.fc1", "called 2 times"), ("block.fc2", "called 2 times"),
        ("block.fc1 (again)", "used twice"), ("block.fc2 (again)", "used twice"),
    )),
    "unused layer": Odd(UnusedLayer),
    "weights in buffers": Odd(BufferWeights),
    "identity head": Odd(IdentityHead, 5),
    "layer with more than its product": Odd(
        WithLora, 5,
        (("block.fc1", "more than"), ("block.fc1.2", "no single"), ("block.fc1.3", "no single")),
    ),
    "layer with a hook": Odd(_hooked, 5, (("block.fc1", "more than the product"),)),
    "layer called by keyword": Odd(ByKeyword, 5, (("head", "by keyword"),)),
    "parametrized weights": Odd(Parametrized),
    "weight norm by hook": Odd(OldWeightNorm),
    "batch norm over features": Odd(BatchNorms),
    "float64": Odd(lambda: Plain().double()),
    "float16": Odd(lambda: Plain().half()),
    "training mode": Odd(lambda: Dropped().train()),
    "own gradient": Odd(OwnGradient),
    "complex": Odd(ComplexMixing),
    "no backward": Odd(NoBackward, refused="nobody wrote this backward"),
    "without gradient": Odd(WithoutGradient, refused="have no gradient"),
    "batch statistics": Odd(WithoutStatistics, refused="does not take images (1, 3, 16, 16)"),
    "centred over the batch": Odd(
        lambda: Answers(lambda x: x - x.mean(0)), refused="to an image alone and in a batch with another one"
    ),
    "random": Odd(AlwaysDropped, refused="differently to the same images in two passes"),
    "control flow": Odd(Branching, refused="cannot be exported to ONNX"),
    "fixed batch": Odd(FixedBatch, refused="does not take images (1, 3, 16, 16)"),
    "two inputs": Odd(TwoInputs, refused="takes images, mask, not images alone"),
    "channels last": Odd(ChannelsLast, refused="does not take images (2, 3, 16, 16)"),
    "named inputs": Odd(Named, refused="does not take images (2, 3, 16, 16)"),
    "vectors": Odd(Vectors, refused="does not take images (2, 3, 16, 16)"),
    "tuple": Odd(lambda: Answers(lambda x: (x, x)), refused="answers a tuple of 2 for 2 images"),
    "list": Odd(lambda: Answers(lambda x: [x]), refused="answers a list of 1"),
    "dict": Odd(lambda: Answers(lambda x: {"logits": x}), refused="answers a dict with logits"),
    "nothing": Odd(lambda: Answers(lambda _: None), refused="answers nothing"),
    "scalar": Odd(lambda: Answers(torch.mean), refused="answers float32 () for 2 images"),
    "classes chosen": Odd(lambda: Answers(lambda x: x.argmax(1)), refused="answers int64 (2,) for 2 images"),
    "not a number": Odd(lambda: Answers(lambda x: x / 0 * 0), refused="NaN or infinity"),
    "no attention": Odd(Convolutions, refused="no attention layers"),
    "no parameters": Odd(NothingToLearn, refused="has no parameters"),
    "lazy": Odd(lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(4)), refused="waits for the first input"),
}  # fmt: skip
