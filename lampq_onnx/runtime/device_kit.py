"""Write what a device needs to check and time a file on itself, without this package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from lampq_onnx.converter.inspect import inspect_model
from lampq_onnx.errors import LampqError
from lampq_onnx.graph.model_file import load_model, save_model
from lampq_onnx.runtime import on_device
from lampq_onnx.runtime.fidelity import cut_layers
from lampq_onnx.runtime.sessions import open_session

PROGRAM = "bench.py"


def write_kit(
    model: Path, reference: Path, images: npt.NDArray[np.float32], folder: Path, *, real: bool
) -> tuple[str, ...]:
    """Write the kit of a file to ``folder``, which exists.

    The kit has model.onnx, float.onnx, images.npz, kit.json, the program bench.py, and for each layer a file and its
    values. The results of the layers come from plain QDQ arithmetic in float, here.

    Args:
        model: the quantized file.
        reference: its float file.
        images: (n, c, h, w), prepared as the files read them. The layers' inputs come from the first one.
        folder: where the kit goes.
        real: whether the images are any that the model has answers for, and not noise.

    Returns:
        Names of the layers.

    Raises:
        LampqError: the file has no quantized layers, or a layer cannot be cut out.
    """
    listed = inspect_model(load_model(model))
    if not listed:
        raise LampqError(f"{model} has no quantized layers", hint="give the quantized file, e.g. out/model.onnx")
    for position, (piece, values) in enumerate(cut_layers(model, listed, images[:1], threads=1)):
        parts = open_session(piece.SerializeToString(), threads=1, optimize=False).run(
            None, {listed[position].input: values}
        )
        onnx.save(piece, folder / f"layer{position}.onnx")
        result = np.concatenate([np.asarray(part, np.float32).ravel() for part in parts])
        np.savez(folder / f"layer{position}.npz", input=values, result=result)
    for path, name in ((model, "model.onnx"), (reference, "float.onnx")):
        save_model(load_model(path), folder / name)
    np.savez(folder / "images.npz", images=images)
    names = tuple(layer.name for layer in listed)
    facts = {"model": model.parent.name + "/" + model.name, "layers": names, "real": real}
    (folder / "kit.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(on_device.__file__, folder / PROGRAM)
    return names
