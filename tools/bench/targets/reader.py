"""Run a file in a runtime of another project: python reader.py RUNTIME MODEL IMAGES.npy ANSWERS.npy

Needs only that runtime and NumPy, in the interpreter that runs this file. The last line that it prints is the version.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import traceback
from importlib import metadata
from pathlib import Path

import numpy as np


def run_mnn(model: str, images: np.ndarray) -> np.ndarray:
    """MNN, after its converter, without the script around it, which installs packages and sends statistics."""
    import MNN
    from MNN import expr

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.mnn")
        program = "import sys, _tools; _tools.mnnconvert(sys.argv)"
        words = ["-f", "ONNX", "--modelFile", model, "--MNNModel", path, "--bizCode", "lampq"]
        command = [sys.executable, "-c", program, *words]  # it leaves a file where it runs
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if not Path(path).is_file():
            said = [
                line for line in (done.stdout + done.stderr).splitlines() if "ot Support" in line or "Don't" in line
            ]
            raise RuntimeError(said[-1].strip() if said else f"its converter ends with {done.returncode}")
        module = MNN.nn.load_module_from_file(path, [], [])
        found = []
        for image in images:
            value = expr.const(image[None].ravel().tolist(), [1, *image.shape], expr.NCHW)
            answer = module.forward(value)
            found.append(np.array(answer.read(), np.float32).ravel())
        return np.stack(found)


def run_opencv(model: str, images: np.ndarray) -> np.ndarray:
    """Answer with OpenCV's dnn module."""
    import cv2

    net = cv2.dnn.readNetFromONNX(model)
    found = []
    for image in images:
        net.setInput(image[None])
        found.append(np.array(net.forward()).ravel())
    return np.stack(found)


def run_iree(model: str, images: np.ndarray) -> np.ndarray:
    """IREE on the CPU."""
    from iree import compiler, runtime

    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "model.mlir"
        words = [sys.executable, "-m", "iree.compiler.tools.import_onnx", model, "-o", str(text)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        built = compiler.compile_file(str(text), target_backends=["llvm-cpu"], input_type="onnx")
    config = runtime.Config("local-task")
    module = runtime.load_vm_module(runtime.VmModule.copy_buffer(config.vm_instance, built), config)
    name = next(n for n in module.vm_module.function_names if not n.startswith("__") and "async" not in n)
    # The host's view of a result ends with the result.
    return np.stack([np.array(module[name](image[None]).to_host()).ravel() for image in images])


def run_tvm(model: str, images: np.ndarray) -> np.ndarray:
    """Apache TVM on the CPU, through Relax."""
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    read = onnx.load(model)
    name = read.graph.input[0].name
    module = from_onnx(read, shape_dict={name: [1, *images.shape[1:]]}, keep_params_in_input=False)
    module = relax.transform.DecomposeOpsForInference()(module)
    built = tvm.compile(relax.get_pipeline("zero")(module), target="llvm")
    machine = relax.VirtualMachine(built, tvm.cpu())
    tensor = tvm.runtime.tensor if hasattr(tvm.runtime, "tensor") else tvm.nd.array
    return np.stack([machine["main"](tensor(image[None])).numpy().ravel() for image in images])


def run_tract(model: str, images: np.ndarray) -> np.ndarray:
    """Answer with tract of Sonos."""
    import tract

    # The batch stays open, as in the file: its inner shapes say so too.
    runnable = tract.onnx().load(model).into_model().into_runnable()
    return np.stack([runnable.run([image[None]])[0].to_numpy().ravel() for image in images])


def run_litert(model: str, images: np.ndarray) -> np.ndarray:
    """LiteRT on the CPU, after the converter onnx2tf (2.6 or newer, which writes its files without TensorFlow)."""
    from ai_edge_litert.interpreter import Interpreter

    with tempfile.TemporaryDirectory() as folder:
        words = [str(Path(sys.executable).with_name("onnx2tf")), "-i", model, "-o", folder, "-b", "1", "-n"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        written = sorted(Path(folder).glob("*_float32.tflite"))
        if not written:
            said = [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line]
            raise RuntimeError(said[-1].strip() if said else f"its converter ends with {done.returncode}")
        interpreter = Interpreter(str(written[0]), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (result, *_) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for image in images:
        channels_last = tuple(given["shape"][1:]) != image.shape
        interpreter.set_tensor(given["index"], (image.transpose(1, 2, 0) if channels_last else image)[None])
        interpreter.invoke()
        found.append(np.array(interpreter.get_tensor(result["index"])).ravel())
    return np.stack(found)


def run_onnxruntime(model: str, images: np.ndarray) -> np.ndarray:
    """onnxruntime, to check this file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.stack([session.run(None, {name: image[None]})[0].ravel() for image in images])


PACKAGES = {
    "mnn": ("MNN", run_mnn),
    "opencv": ("opencv-python-headless", run_opencv),
    "iree": ("iree-base-compiler", run_iree),
    "tvm": ("apache-tvm", run_tvm),
    "tract": ("tract", run_tract),
    "litert": ("ai-edge-litert", run_litert),
    "onnxruntime": ("onnxruntime", run_onnxruntime),
}
"""Runtime -> its package, and what runs a file in it."""


def in_one_line(error: BaseException) -> str:
    """What an exception says: its line with "error:", else its first line, without a stamp of time and a place."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = next((line for line in lines if "error: " in line), lines[0])
    return re.sub(r"^(.*?\berror: )?(\[[\d:]+\]\s*)?(:\d+:\s*)?", "", line)


def main() -> None:
    name, model, images, answers = sys.argv[1:]
    package, run = PACKAGES[name]
    try:
        found = run(model, np.load(images))
    except Exception as error:  # whatever a runtime raises is what the table says about it
        traceback.print_exc()
        sys.exit(in_one_line(error))
    np.save(answers, found)
    print(f"{package} {metadata.version(package)}")


if __name__ == "__main__":
    main()
