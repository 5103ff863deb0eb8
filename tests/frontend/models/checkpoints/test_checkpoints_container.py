"""Files of checkpoints: formats by content, harmless types, and refusals."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import gzip
import io
import json
import os
import pathlib
import pickle
import tarfile
import types
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from lampq_onnx.errors import LampqError
from lampq_onnx.frontend.models.checkpoints import contents
from lampq_onnx.frontend.models.checkpoints.container import read_container
from lampq_onnx.frontend.models.checkpoints.contents import read_checkpoint
from tests.frontend.models.checkpoints.saved import empty, saved, under, weights

PLAIN = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.tensor([0.5, -2.0])}

BESIDE: dict[str, object] = {
    "namespace": argparse.Namespace(lr=0.1, output=pathlib.Path("a/b"), betas=(0.9, 0.99), inner=argparse.Namespace()),
    "simple-namespace": types.SimpleNamespace(a=[1]),
    "numpy-float64": np.float64(0.5),
    "numpy-float32": np.float32(0.5),
    "numpy-int64": np.int64(7),
    "numpy-bool": np.bool_(True),
    "numpy-array": np.arange(6.0).reshape(2, 3),
    "numpy-strings": np.array(["a", "b"]),
    "numpy-objects": np.array([{}, None], dtype=object),
    "numpy-generator": np.random.default_rng(0),
    "numpy-old-generator": np.random.RandomState(0).get_state(),
    "numpy-dtype": np.dtype("float32"),
    "numpy-type": np.float32,
    "path": pathlib.PurePosixPath("a"),
    "windows-path": pathlib.PureWindowsPath("a\\b"),
    "datetime": datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC),
    "date": datetime.date(2020, 1, 2),
    "duration": datetime.timedelta(3),
    "defaultdict": collections.defaultdict(list, {"loss": [0.5]}),
    "deque": collections.deque([1, 2], maxlen=3),
    "counter": collections.Counter("aab"),
    "ordered": collections.OrderedDict(a=1),
    "dtype": torch.bfloat16,
    "device": torch.device("cuda:1"),
    "size": torch.Size([1, 2]),
    "torch-version": torch.__version__,
    "sets": [{1, 2}, frozenset({3})],
    "type": float,
    "slice": slice(1, 2),
    "range": range(3),
    "uuid": uuid.UUID(int=5),
    "decimal": decimal.Decimal("1.5"),
    "complex": 1j,
    "bytes": b"abc",
    "random-state": torch.random.get_rng_state(),
}


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("what", BESIDE)
def test_what_training_tools_save_beside_the_weights_does_not_matter(what: str, older: bool, tmp_path: Path) -> None:
    content = {"epoch": 3, "args": BESIDE[what], "state_dict": PLAIN}
    path = saved(tmp_path, content, _use_new_zipfile_serialization=not older)
    tensors = read_checkpoint(path).tensors
    for key, value in PLAIN.items():
        assert torch.equal(tensors[f"state_dict.{key}"], value)


def test_tables_of_other_kinds_may_hold_the_weights(tmp_path: Path) -> None:
    for table in (collections.OrderedDict(PLAIN), collections.defaultdict(list, PLAIN)):
        tensors = read_checkpoint(saved(tmp_path, {"net": table})).tensors
        assert {key: value.tolist() for key, value in tensors.items()} == {
            f"net.{key}": value.tolist() for key, value in PLAIN.items()
        }


def test_types_are_harmless_only_while_a_file_is_read(tmp_path: Path) -> None:
    path = saved(tmp_path, {"args": argparse.Namespace(), "weight": torch.zeros(1)})
    before = set(torch.serialization.get_safe_globals())
    read_container(path)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("name", ["best.pth.tar", "model.safetensors", "weights", "weights.txt", "x.bin", "x.ckpt"])
def test_the_content_says_the_format_not_the_suffix(name: str, tmp_path: Path) -> None:
    contents = {"torch": lambda path: torch.save(PLAIN, path), "safetensors": None}
    contents["safetensors"] = lambda path: safetensors.torch.save_file(PLAIN, path)
    for write in contents.values():
        write(tmp_path / name)
        assert read_checkpoint(tmp_path / name).tensors.keys() == PLAIN.keys()


class Config:
    """A type that no list of harmless ones has."""

    def __init__(self) -> None:
        self.lr = 0.1


class Runs:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def refused(path: Path) -> LampqError:
    with pytest.raises(LampqError, match="cannot be read") as caught:
        read_checkpoint(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
def test_an_unknown_type_is_named_with_how_to_strip_it(older: bool, tmp_path: Path) -> None:
    error = refused(saved(tmp_path, {"cfg": Config(), **PLAIN}, _use_new_zipfile_serialization=not older))
    assert f"{Config.__module__}.Config" in error.message
    assert "torch.save(torch.load('file.pth'" in error.hint


@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, __import__], ids=lambda f: f.__name__)
@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
def test_code_is_named_and_not_run(function: Any, older: bool, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    content = {"args": Runs(function, f"touch {witness}"), **PLAIN}
    error = refused(saved(tmp_path, content, _use_new_zipfile_serialization=not older))
    assert f"would call {function.__module__}.{function.__name__}" in error.message
    assert not witness.exists()


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
def test_a_whole_pickled_model_is_refused_with_how_to_convert_it(older: bool, tmp_path: Path) -> None:
    for module in (empty(), torch.nn.Sequential(torch.nn.Linear(2, 2))):
        error = refused(saved(tmp_path, module, _use_new_zipfile_serialization=not older))
        assert "whole pickled model" in error.message
        assert ".state_dict(), 'weights.pth')" in error.hint
    nested = saved(tmp_path, {"model": torch.nn.Linear(2, 2), "epoch": 3})
    assert "whole pickled model" in refused(nested).message


def test_other_formats_are_named(tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save(PLAIN, stream)
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        info = tarfile.TarInfo("weights.pth")
        info.size = len(stream.getvalue())
        archive.addfile(info, io.BytesIO(stream.getvalue()))
    arrays = io.BytesIO()
    np.savez(arrays, weight=np.zeros(3))
    contents = {
        "empty": b"",
        "tar archive": tar.getvalue(),
        "gzip": gzip.compress(stream.getvalue()),
        "web page": b"<html></html>",
        "Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
        "NumPy arrays": arrays.getvalue(),
        "a pickle that torch.save did not write": pickle.dumps({"weight": [1.0]}, protocol=2),
        "neither a safetensors file": b"some text",
        "damaged or cut short": stream.getvalue()[:-100],
        "not valid JSON": b'{"metadata": {},,}',
        "without 'weight_map'": json.dumps({"architectures": ["ViT"], "hidden_size": 3}).encode(),
    }
    for what, content in contents.items():
        path = tmp_path / "weights.pth.tar"
        path.write_bytes(content)
        assert what in str(refused(path)), what
    program = tmp_path / "program.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(program))
    assert "TorchScript" in refused(program).message
    assert "protocol 4" in refused(saved(tmp_path, PLAIN, pickle_protocol=4)).message
    with pytest.raises(LampqError, match="is a folder"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("start", [b"\x80", b"PK", b"\x1f\x8b", b"\x93N"])
def test_a_safetensors_file_whose_length_looks_like_another_format(start: bytes, tmp_path: Path) -> None:
    """The file begins with the length of its header, a multiple of 8 if safetensors wrote it."""
    own = safetensors.torch.save({"weight": torch.arange(6.0).reshape(2, 3)})
    length = int.from_bytes(own[:8], "little")
    wanted = next(n for n in range(length, length + 2**17) if n.to_bytes(8, "little").startswith(start))
    header = own[8 : 8 + length] + b" " * (wanted - length)
    path = tmp_path / "model.safetensors"
    path.write_bytes(wanted.to_bytes(8, "little") + header + own[8 + length :])
    found = read_container(path)
    assert isinstance(found, dict)
    torch.testing.assert_close(found["weight"], torch.arange(6.0).reshape(2, 3))


def test_sharded_files_are_read_through_their_index(tmp_path: Path) -> None:
    names = sorted(PLAIN)
    files = {names[0]: "model-00001-of-00002.safetensors", names[1]: "model-00002-of-00002.safetensors"}
    for name, file in files.items():
        safetensors.torch.save_file({name: PLAIN[name]}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 32}, "weight_map": files}))
    tensors = read_checkpoint(index).tensors
    assert all(torch.equal(tensors[name], PLAIN[name]) for name in names)
    index.write_text(json.dumps({"weight_map": {**files, "head.weight": files[names[0]]}}))
    assert "lacks head.weight" in refused_shard(index).message
    for wrong in ("../model.safetensors", "/model.safetensors", "sub/model.safetensors"):
        index.write_text(json.dumps({"weight_map": {"head.weight": wrong}}))
        assert "not a file in its folder" in refused(index).message
    index.write_text(json.dumps({"weight_map": {"head.weight": "gone.safetensors"}}))
    with pytest.raises(LampqError, match=r"no such checkpoint: .*gone\.safetensors"):
        read_checkpoint(index)


def refused_shard(index: Path) -> LampqError:
    with pytest.raises(LampqError, match="cannot be read") as caught:
        read_checkpoint(index)
    return caught.value


def test_tensors_get_the_place_that_they_have_in_the_file(tmp_path: Path) -> None:
    content = {"nets": [under("_orig_mod.", PLAIN), {"deep": {"_fsdp_wrapped_module.er": torch.ones(1)}}], "step": 3}
    checkpoint = read_checkpoint(saved(tmp_path, content))
    assert sorted(checkpoint.tensors) == ["nets.0.layer.bias", "nets.0.layer.weight", "nets.1.deep.er"]
    assert dict(checkpoint.tables) == {"nets.0": 2, "nets.1.deep": 1}
    assert sorted(checkpoint.under("nets.1").tensors) == ["nets.1.deep.er"]
    with pytest.raises(LampqError, match="no tensors under 'net'") as caught:
        checkpoint.under("net")
    assert "nets.0 (2 tensors)" in caught.value.hint


def test_tables_that_hold_themselves_come_to_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop: dict[str, object] = dict(PLAIN)
    loop["self"] = loop
    assert set(PLAIN) <= set(read_checkpoint(saved(tmp_path, loop)).tensors)
    many: object = list(weights())
    for _ in range(12):
        many = [many] * 12
    assert contents._MOST == 10**7
    monkeypatch.setattr(contents, "_MOST", 10**5)  # the full number takes seconds
    with pytest.raises(LampqError, match="more than 100000 entries"):
        read_checkpoint(saved(tmp_path, {"weight": torch.zeros(1), "many": many}))


def test_files_without_tensors(tmp_path: Path) -> None:
    for content, said in (
        (3, "a int"),
        (torch.zeros(2), "one tensor"),
        ({"epoch": 3}, "no tensors"),
        ([], "no tensors"),
    ):
        with pytest.raises(LampqError, match=said):
            read_checkpoint(saved(tmp_path, content))
