"""Errors for files that cannot be read as a checkpoint, with the reason and what to do."""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from pathlib import Path

from lampq_onnx.errors import LampqError, first_line

ONLY_WEIGHTS = "save only the weights: torch.save(model.state_dict(), 'weights.pth')"

_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "it is a pointer of Git LFS, not the file itself", "run `git lfs pull` first"),
    (b"<", "it is a web page or XML", "download the file itself"),
    (b"\x1f\x8b", "it is compressed with gzip", "unpack it first"),
    (b"\xfd7zXZ", "it is compressed with xz", "unpack it first"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes them", "export the model to ONNX, and give the .onnx file"),
    (b"\x93NUMPY", "it is a NumPy array", ONLY_WEIGHTS),
    (b"GGUF", "it is a GGUF file, whose weights are quantized already", "give the float weights"),
    (b"\x08", "it may be an ONNX file", "give a float .onnx file in place of the model's name"),
)
"""First bytes of a file, what they mean, and what to do."""

_TAR_MAGIC, _TAR_PLACE = b"ustar", 257
_PROTOCOL = 2
"""Pickle protocol that torch reads without running code; also the default of torch.save."""

_CODE = ("os.", "posix.", "nt.", "sys.", "subprocess.", "builtins.", "runpy.", "shutil.", "importlib.")
_MODULES = ("torch.nn.modules.", "torch.nn.parallel.", "timm.models.", "timm.layers.", "torchvision.models.")


def unreadable(path: Path, reason: str, hint: str) -> LampqError:
    """The error for a file that cannot be read."""
    return LampqError(f"the checkpoint {path} cannot be read ({reason})", hint=hint)


def foreign(path: Path, head: bytes) -> LampqError:
    """The error for a file of an unknown format.

    Args:
        path: path of the file.
        head: first bytes of the file; 512 are enough.
    """
    if not head:
        return unreadable(path, "the file is empty", "copy or download it again")
    if head[_TAR_PLACE : _TAR_PLACE + len(_TAR_MAGIC)] == _TAR_MAGIC:
        return unreadable(path, "it is a tar archive", "unpack it, and give the checkpoint in it")
    for magic, what, hint in _FOREIGN:
        if head.startswith(magic):
            return unreadable(path, what, hint)
    return unreadable(
        path,
        "it is neither a safetensors file nor one that torch.save wrote",
        "the file is damaged or cut short, or of another format",
    )


def unlike_torch(path: Path, names: list[str]) -> LampqError | None:
    """The error for a zip archive that torch.save did not write; None if it did.

    Args:
        path: path of the file.
        names: names of the files in the archive.
    """
    if any(name.endswith("constants.pkl") for name in names):
        return unreadable(
            path,
            "it is a TorchScript program",
            f"keep its weights: torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')",
        )
    if any(name.endswith("data.pkl") for name in names):
        return None
    if names and all(name.endswith(".npy") for name in names):
        return unreadable(path, "it is an archive of NumPy arrays", ONLY_WEIGHTS)
    return unreadable(path, "it is a zip archive that torch.save did not write", ONLY_WEIGHTS)


def refused_pickle(path: Path, error: Exception) -> LampqError:
    """Explain why torch's reader of weights refused a file; the pickle is inspected but not run.

    Args:
        path: path of the file.
        error: exception that torch raised.
    """
    named = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
    names = _globals(path)
    if any(name.startswith(_MODULES) for name in names):
        return unreadable(
            path,
            "it holds a whole pickled model, whose code would have to run",
            "if its code is installed and you trust the file, save only the weights: "
            f"torch.save(torch.load({path.name!r}, weights_only=False).state_dict(), 'weights.pth')",
        )
    culprit = _full_name(named.group(1), names) if named else ""
    if culprit.startswith(_CODE):
        return unreadable(
            path,
            f"loading it would call {culprit}, which weights do not need",
            "do not load the file with other tools either unless you know who made it",
        )
    if culprit:
        return unreadable(
            path,
            f"besides weights it holds the type {culprit}, which is not on the list of allowed types",
            "if you trust the file, save only the weights, under the key that they have in it: "
            f"torch.save(torch.load({path.name!r}, weights_only=False)['state_dict'], 'weights.pth')",
        )
    protocol = _protocol(path)
    if protocol > _PROTOCOL:
        return unreadable(
            path,
            f"its pickle has protocol {protocol}, and only protocol {_PROTOCOL} can be read without running it",
            "save it again without pickle_protocol: torch.save(model.state_dict(), 'weights.pth')",
        )
    return unreadable(path, first_line(error), "the file is damaged, cut short, or holds more than tensors")


def _full_name(name: str, names: list[str]) -> str:
    """The name with its module; torch leaves out the module of builtins."""
    return name if "." in name and name in names else next((n for n in names if n.endswith(f".{name}")), name)


def _pickle(path: Path) -> bytes:
    """The bytes of the pickle that describes the content of a file."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _protocol(path: Path) -> int:
    try:
        head = _pickle(path)[:2]
    except (OSError, zipfile.BadZipFile, StopIteration):
        return 0
    return head[1] if len(head) == 2 and head[:1] == b"\x80" else 0


_PICKLES = 5
"""Pickles in a file of torch's older format: magic number, version, machine, content, names of storages."""


def _globals(path: Path) -> list[str]:
    """Full names of the types and functions that the pickles of a file name, as far as they can be read."""
    found: list[str] = []
    words: list[str] = []
    try:
        stream = io.BytesIO(_pickle(path))
        for _ in range(_PICKLES):
            for code, argument, _place in pickletools.genops(stream):
                if code.name == "GLOBAL":
                    found.append(str(argument).replace(" ", ".").replace("__builtin__.", "builtins."))
                elif code.name == "STACK_GLOBAL":
                    found.append(".".join(words[-2:]))
                elif isinstance(argument, str):
                    words.append(argument)
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile):
        return found  # truncated, or at the bytes of the storages: the names so far still explain the refusal
    return found
