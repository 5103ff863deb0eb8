"""Check a kit of `lampq-onnx bench` in OpenVINO: python openvino_kit.py KIT, with only openvino and NumPy.

Prints a JSON object: layers -> kernel and error, the share of images with the answer of the float file, versions.
`tools.bench.arm64` runs it on emulated CPUs. Layers are compared in float32; answers have the default precision.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino

PRODUCTS = ("FullyConnected", "MatMul", "Convolution")
INTEGERS = ("u8", "i8")


def opened(path: Path, **options: Any) -> Any:
    """A compiled model, with one thread."""
    core = openvino.Core()
    return core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_NUM_THREADS": 1, **options})


def kernels(compiled: Any) -> set[tuple[str, str]]:
    """Kernels of the products, with the precision of their inputs, by OpenVINO's own word."""
    found = set()
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str) in PRODUCTS:
            found.add((facts["primitiveType"].astype(str), facts["runtimePrecision"].astype(str)))
    return found


def measure(folder: Path) -> dict[str, Any]:
    """Measure a kit: precision and error of each layer, and the answers of the whole model."""
    facts = json.loads((folder / "kit.json").read_text(encoding="utf-8"))
    layers = {}
    for position, layer in enumerate(facts["layers"]):
        values = np.load(folder / f"layer{position}.npz")
        compiled = opened(folder / f"layer{position}.onnx", INFERENCE_PRECISION_HINT="f32")
        parts = compiled(values["input"])
        found = np.concatenate([np.asarray(part, np.float64).ravel() for part in parts.values()])
        wanted = values["result"].astype(np.float64)
        error = float(np.linalg.norm(found - wanted)) / max(float(np.linalg.norm(wanted)), 1e-30)
        used = kernels(compiled)
        layers[layer] = {
            "kernel": " + ".join(sorted(kernel for kernel, _ in used)),
            "integer": bool(used) and all(kernel.endswith("_I8") and kind in INTEGERS for kernel, kind in used),
            "error": error if np.isfinite(error) else float("inf"),
        }
    images = np.load(folder / "images.npz")["images"]
    answers = []
    for name in ("model.onnx", "float.onnx"):
        compiled = opened(folder / name)
        answers.append([int(np.argmax(compiled(image[None])[0])) for image in images])
    return {
        "layers": layers,
        "same": float(np.mean(np.equal(*answers))) if facts["real"] else None,
        "images": len(images),
        "runtime": f"OpenVINO {openvino.__version__.split('-')[0]}",
        "precision": compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
