"""Run one quantizer in its own environment, for `peers.py`; uses numpy, onnx and the tool, but not lampq_onnx.

python tools/bench/peer_tools.py TOOL float.onnx out.onnx calibration.npy
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx


def ort_static(source: Path, output: Path, images: np.ndarray) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds: Iterator[dict[str, np.ndarray]] = iter([{input_name(source): x[None]} for x in images])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(source), str(ready))
        quantize_static(
            str(ready),
            str(output),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


def ort_dynamic(source: Path, output: Path, _: np.ndarray) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(source), str(output), per_channel=True, weight_type=QuantType.QInt8)


def ort_nbits(bits: int, *, block: int = 32, level: int | None = None) -> Callable[[Path, Path, np.ndarray], None]:
    def run(source: Path, output: Path, _: np.ndarray) -> None:
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        tool = MatMulNBitsQuantizer(
            onnx.load(source), bits=bits, block_size=block, is_symmetric=True, accuracy_level=level
        )
        tool.process()
        tool.model.save_model_to_file(str(output))

    return run


def nncf_int8(source: Path, output: Path, images: np.ndarray) -> None:
    import nncf

    name = input_name(source)
    dataset = nncf.Dataset(list(images), lambda x: {name: x[None]})
    model = nncf.quantize(onnx.load(source), dataset, subset_size=len(images), model_type=nncf.ModelType.TRANSFORMER)
    onnx.save(model, output)


def aimet(weights: str) -> Callable[[Path, Path, np.ndarray], None]:
    def run(source: Path, output: Path, images: np.ndarray) -> None:
        import aimet_onnx
        from aimet_onnx.quantsim import QuantizationSimModel

        types = {"int4": aimet_onnx.int4, "int8": aimet_onnx.int8}
        name = input_name(source)
        sim = QuantizationSimModel(
            onnx.load(source),
            param_type=types[weights],
            activation_type=aimet_onnx.int8,
            providers=["CPUExecutionProvider"],
        )
        sim.compute_encodings([{name: x[None]} for x in images])
        onnx.save(sim.to_onnx_qdq(prequantize_constants=True), output)

    return run


def modelopt(mode: str) -> Callable[[Path, Path, np.ndarray], None]:
    def run(source: Path, output: Path, images: np.ndarray) -> None:
        from modelopt.onnx.quantization import quantize

        quantize(
            str(source),
            quantize_mode=mode,
            calibration_data={input_name(source): images[:1]},
            calibration_eps=["cpu"],
            output_path=str(output),
        )

    return run


def input_name(path: Path) -> str:
    return str(onnx.load(path, load_external_data=False).graph.input[0].name)


TOOLS: dict[str, Callable[[Path, Path, np.ndarray], None]] = {
    "ort-static": ort_static,
    "ort-dynamic": ort_dynamic,
    "ort-nbits4": ort_nbits(4),
    "ort-nbits8": ort_nbits(8),
    "ort-nbits4-level4": ort_nbits(4, block=128, level=4),
    "ort-nbits8-level4": ort_nbits(8, block=128, level=4),
    "nncf": nncf_int8,
    "aimet-w8": aimet("int8"),
    "aimet-w4": aimet("int4"),
    "modelopt-int8": modelopt("int8"),
    "modelopt-int4": modelopt("int4"),
}


if __name__ == "__main__":
    tool, source, output, calibration = sys.argv[1:]
    TOOLS[tool](Path(source), Path(output), np.load(calibration))
