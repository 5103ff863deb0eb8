"""Checkpoints that are cut, mislabelled, hostile or of another model."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch

from tests.trust.case import OUT, Case, Good

ARGUMENTS = {
    "img_size": 16, "patch_size": 8, "in_chans": 1, "num_classes": 5, "embed_dim": 16, "depth": 1, "num_heads": 2,
}  # fmt: skip


class Payload:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (_leave, (str(self.witness), "executed"))


class Command:
    """Pickles to a command for the shell."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.system, (self.text,))


def _leave(path: str, text: str) -> None:
    Path(path).write_text(text)


def state() -> dict[str, torch.Tensor]:
    """Weights that fit `ARGUMENTS`."""
    import timm

    torch.manual_seed(0)
    return dict(timm.create_model("vit_tiny_patch16_224", **ARGUMENTS).state_dict())


def words(path: Path) -> tuple[str | Path, ...]:
    found: list[str | Path] = ["quantize", "vit_tiny_patch16_224", "--checkpoint", path, "--output", OUT]
    for key, value in ARGUMENTS.items():
        found += ["--model-arg", f"{key}={value}"]
    return tuple(found)


def cases(good: Good) -> Iterator[Case]:
    weights = state()
    whole = safetensors.torch.save(weights)
    stream = io.BytesIO()
    torch.save(weights, stream)
    zipped = stream.getvalue()
    stream = io.BytesIO()
    torch.save(weights, stream, _use_new_zipfile_serialization=False)
    legacy = stream.getvalue()
    length = struct.unpack("<Q", whole[:8])[0]
    contents = {
        "empty.safetensors": b"",
        "cut-header.safetensors": whole[: length // 2],
        "cut-data.safetensors": whole[:-7],
        "tail.safetensors": whole + b"tail",
        "long-header.safetensors": struct.pack("<Q", 2**62) + whole[8:],
        "json-header.safetensors": whole[:8] + b"{" * length + whole[8 + length :],
        "text.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        "huge-shape.safetensors": _header(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}'),
        "overflow-shape.safetensors": _header(
            b'{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'
        ),
        "huge-offsets.safetensors": _header(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,9999999999]}}'),
        "unknown-type.safetensors": _header(b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}'),
        "empty.pth": b"",
        "cut.pth": zipped[: len(zipped) // 2],
        "flipped.pth": zipped[:200] + bytes([zipped[200] ^ 255]) + zipped[201:],
        "legacy-cut.pth": legacy[: len(legacy) // 2],
        "html.pth": b"<!DOCTYPE html><title>Sign in</title>",
        "pickle.pth": pickle.dumps(Payload(good.folder / "executed")),
        "pickle-protocol-0.pth": pickle.dumps(Payload(good.folder / "executed"), protocol=0),
        "hidden-pickle.pth": _torch_zip({"weights": 1, "x": Payload(good.folder / "executed")}),
        "path-in-archive.pth": _escaping_zip(),
        "tar.pth": _tar(),
        "onnx.pth": good.float.read_bytes(),
        "npz.bin": good.images.read_bytes(),
        "text.txt": b"weights",
        "index.json": b'{"weight_map": {"head.weight": "../outside.safetensors"}}',
        "cut-index.json": b'{"weight_map": {"head.weight": "model',
        "compressed.pth.tar": gzip.compress(zipped),
        "system.pth": _torch_zip({**weights, "args": Command("touch " + str(good.folder / "executed"))}),
    }
    for name, content in contents.items():
        path = good.new(name)
        path.write_bytes(content)
        yield Case(f"checkpoint-{name}", words(path), (name,))
    saved: dict[str, object] = {
        "number.pth": 3,
        "list.pth": [torch.zeros(3)],
        "one-tensor.pth": torch.zeros(3),
        "no-tensors.pth": {"epoch": 3},
        "empty-dict.pth": {},
        "nested-empty.pth": {"state_dict": {}},
        "integer-keys.pth": {1: torch.zeros(3)},
        "two-sets.pth": {"student": weights, "teacher": weights},
        "whole-model.pth": torch.nn.Sequential(torch.nn.Linear(2, 2)),
    }
    for name, value in saved.items():
        path = good.new(name)
        torch.save(value, path)
        yield Case(f"checkpoint-{name}", words(path), (name,))
    key = "blocks.0.mlp.fc1.weight"
    changed: dict[str, dict[str, torch.Tensor]] = {
        "missing-tensor": {k: v for k, v in weights.items() if k != key},
        "extra-layer": {**weights, "blocks.1.norm1.weight": torch.ones(16)},
        "extra-bias": {**weights, "norm.running_mean": torch.zeros(16)},
        "eight-bit-floats": {**weights, key: weights[key].to(torch.float8_e4m3fn)},
        "other-shape": {**weights, key: torch.zeros(3, 4)},
        "transposed": {**weights, key: weights[key].T.contiguous()},
        "scalar": {**weights, key: torch.tensor(1.0)},
        "nan": {**weights, key: torch.full_like(weights[key], torch.nan)},
        "infinity": {**weights, key: torch.full_like(weights[key], torch.inf)},
        "half-overflow": {**weights, key: torch.full_like(weights[key], torch.inf).half()},
        "integers": {**weights, key: torch.ones_like(weights[key], dtype=torch.int8)},
        "complex": {**weights, key: weights[key].to(torch.complex64)},
        "booleans": {**weights, key: weights[key] > 0},
    }
    for what, tensors in changed.items():
        path = good.new(f"{what}.safetensors")
        safetensors.torch.save_file(tensors, path)
        yield Case(f"checkpoint-{what}", words(path), (f"{what}.safetensors",))
    sparse = good.new("sparse.pth")
    torch.save({**weights, key: weights[key].to_sparse()}, sparse)
    yield Case("checkpoint-sparse", words(sparse), ("sparse.pth",))
    meta = good.new("meta.pth")
    torch.save({**weights, key: weights[key].to("meta")}, meta)
    yield Case("checkpoint-without-data", words(meta), ("meta.pth",))
    expanded = good.new("expanded.pth")
    torch.save({**weights, key: torch.zeros(1).expand(2**20, 2**20)}, expanded)
    yield Case("checkpoint-expanded-to-terabytes", words(expanded), ("expanded.pth",))
    wrong_key = good.new("key.pth")
    torch.save({"state_dict": weights}, wrong_key)
    yield Case("checkpoint-key", (*words(wrong_key), "--checkpoint-key", "teacher"), ("key.pth", "teacher"))
    yield Case("checkpoint-missing", words(good.folder / "gone.pth"), ("gone.pth",))
    folder = good.new("folder.pth")
    folder.mkdir()
    yield Case("checkpoint-folder", words(folder), ("folder.pth",))
    pipe = good.new("pipe.pth")
    os.mkfifo(pipe)
    yield Case("checkpoint-pipe", words(pipe), ("pipe.pth",))


def _header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text + bytes(4)


def _torch_zip(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _escaping_zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../../escaped/data.pkl", b"\x80\x02}.")
        archive.writestr("../../escaped/version", b"3")
    return stream.getvalue()


def _tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("../../escaped")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"data"))
    return stream.getvalue()
