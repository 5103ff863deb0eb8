"""The quantized model from which every serving format is written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from lampq_onnx.data import Preprocessing
from lampq_onnx.disk.files import created
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.keys import PREPROCESSING_KEY, TARGET_KEY
from lampq_onnx.graph.metadata import read_metadata
from lampq_onnx.targets import TARGETS, Device

PREPROCESSING_FILE = "preprocessing.json"


@dataclass(frozen=True)
class Source:
    """A quantized file that is to be packaged.

    Attributes:
        path: path of the file.
        model: its graph.
        name: name of the model: letters, digits and underscores.
    """

    path: Path
    model: ir.Model
    name: str

    def tensor(self, value: ir.Value) -> tuple[str, ir.DataType, tuple[int | None, ...]]:
        """Return name, type and shape of an input or output; None is a dimension of any size.

        Raises:
            LampqError: the file does not say.
        """
        if value.name is None or value.dtype is None or value.shape is None:
            raise LampqError(f"{self.path} does not say the type and shape of {value.name}")
        return value.name, value.dtype, tuple(d if isinstance(d, int) else None for d in value.shape)

    def preprocessing(self) -> Preprocessing | None:
        """Preprocessing of its images; None if the file does not say.

        Raises:
            LampqError: the metadata is damaged.
        """
        if PREPROCESSING_KEY not in self.model.metadata_props:
            return None
        return read_metadata(self.model, self.path).preprocessing


def device_of(source: Source, reader: str) -> Device:
    """Return where a file runs, and refuse files of NPUs and TensorRT, whose forms other runtimes refuse or run slowly.

    Args:
        source: the file; one that names no target is for a CPU.
        reader: what is to read the package.

    Raises:
        LampqError: names the target of the file.
    """
    target = TARGETS.get(source.model.metadata_props.get(TARGET_KEY, ""))
    if target is None:
        return "CPU"
    if not target.plain:
        raise LampqError(
            f"{source.path} is made for {target.name}, which {reader} does not run",
            hint="make the file with a --target for CPUs, or with --target onnxruntime-cuda for a server with a GPU",
        )
    return target.device


def write_preprocessing(source: Source, folder: Path) -> None:
    """Write the preprocessing as `PREPROCESSING_FILE`: the format holds only the model, and clients need it.

    Every field is written, also fields with their default; ``description`` says everything in one line. Nothing is
    written for a file that does not record its preprocessing.

    Raises:
        LampqError: the metadata is damaged.
    """
    found = source.preprocessing()
    if found is None:
        return
    fields = {name: getattr(found, name) for name in type(found).model_fields}
    fields["resize"] = None if found.resize is None else found.resize.model_dump()
    text = json.dumps({"description": found.describe(), **fields}, indent=2)
    (folder / PREPROCESSING_FILE).write_text(text + "\n", encoding="utf-8")


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Give a private folder beside ``target``, which is renamed to ``target`` when the block succeeds."""
    with created(target.parent):
        stage = Path(tempfile.mkdtemp(dir=target.parent, prefix=".lampq-"))
        try:
            yield stage
            umask = os.umask(0)
            os.umask(umask)
            stage.chmod(0o777 & ~umask)
            stage.rename(target)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def copy_model(path: Path, target: Path) -> None:
    """Copy an ONNX file and the data file beside it, which it refers to by name.

    Raises:
        LampqError: the file has external data and would get another name.
    """
    data = path.with_name(path.name + ".data")
    if data.exists():
        if target.name != path.name:
            raise LampqError(
                f"{path} keeps its weights in {data.name} and refers to that name",
                hint=f"call the file {target.name} with lampq-onnx convert -o {target.name}",
            )
        shutil.copy2(data, target.with_name(data.name))
    shutil.copy2(path, target)
