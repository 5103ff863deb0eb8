"""The targets as data, and the one of this machine."""

from __future__ import annotations

from collections.abc import Collection

from lampq_onnx.errors import UsageError
from lampq_onnx.targets.target import FLOAT, Kernel, Target, Verified

RUNNERS = {
    "onnxruntime": "onnxruntime, which is always installed",
    "openvino": "OpenVINO, which lampq-onnx[openvino] installs",
}
"""Runtimes that run, check and time files here (`lampq_onnx.runtime.runtimes`) -> what they are."""

_LOW = tuple(range(1, 9))
_NARROW = tuple(range(2, 9))

_ONNXRUNTIME = (Kernel(_LOW, _NARROW, "integer"), Kernel(_LOW, (16, FLOAT), "float"))
"""Kernels of onnxruntime on CPUs (docs/runtime/targets.md): narrow widths run in 8 bits, wider inputs in float."""

ATTENTION_OPSET = 23
"""First opset with the operator Attention."""

BLOCK = 64
"""Inputs that share a scale on GPUs: every width of a ViT is a multiple of it, and scales take 1/4 bit a weight."""

_EMULATED = {
    name: Verified(f"python -m tools.bench.arm64 --runtime {name}", f"{version}, three emulated CPUs", "2026-11-30")
    for name, version in (("onnxruntime", "onnxruntime 1.32.0"), ("openvino", "OpenVINO 2026.4.1"))
}
"""Runtime -> what showed that its files for arm64 are exact; they were never timed."""

_ON_CPU = Verified("python -m tools.bench.targets --only onnxruntime", "onnxruntime 1.32.0", "2026-11-30")


def _openvino(cpu: str, words: str, *, signed_8bit_exact: bool) -> Target:
    """Make the target of OpenVINO on one kind of CPU."""
    verified = Verified("python -m tools.bench.targets --only openvino", "OpenVINO 2026.4.1", "2026-11-30")
    return Target(
        f"openvino-{cpu}",
        f"OpenVINO on {words}",
        signed_8bit_exact=signed_8bit_exact,
        kernels=(Kernel(_LOW, _NARROW, "integer"), Kernel(_LOW, (FLOAT,), "float")),
        packings=("exact", "container"),
        shared_bytes=False,
        part_products=cpu != "arm64",
        runner="openvino",
        verified=_EMULATED["openvino"] if cpu == "arm64" else verified,
        opset=20,
    )


TARGETS = {
    target.name: target
    for target in (
        Target(
            "onnxruntime-x86-avx2",
            "onnxruntime on x86-64 CPUs without VNNI",
            signed_8bit_exact=False,
            kernels=_ONNXRUNTIME,
            part_products=True,
            runner="onnxruntime",
            verified=_ON_CPU,
        ),
        Target(
            "onnxruntime-x86-vnni",
            "onnxruntime on x86-64 CPUs with VNNI or AMX",
            signed_8bit_exact=True,
            kernels=_ONNXRUNTIME,
            gemm_bias=True,
            rows=True,
            tokens_first=True,
            part_products=True,
            runner="onnxruntime",
            verified=_ON_CPU,
        ),
        Target(
            "onnxruntime-arm64",
            "onnxruntime on 64-bit Arm CPUs",
            signed_8bit_exact=True,
            kernels=_ONNXRUNTIME,
            runner="onnxruntime",
            verified=_EMULATED["onnxruntime"],
        ),
        # onnxruntime's QNN execution provider, HTP backend: weights of 4 bits (INT4 with zero point 0) and 8 bits,
        # inputs of uint8 and uint16. The provider gets the graph after onnxruntime's own folding, but QDQ groups are
        # matched on initializers, so no unpacking is written for it. Measured with the provider's software HTP
        # (tools/bench/qnn.py): a product becomes an integer one only with a QuantizeLinear behind it, bytes cannot be
        # reshaped, INT4 without a zero point is multiplied wrongly, and all sizes must be fixed.
        Target(
            "onnxruntime-qnn",
            "onnxruntime on Qualcomm NPUs (QNN, HTP backend)",
            device="NPU",
            signed_8bit_exact=True,
            kernels=(Kernel((4, 8), (8, 16), "integer"),),
            packings=("native", "container"),
            folds=False,
            grids=("mid-tread",),
            output_ranges=True,
            zero_points=True,
            batch=1,
            verified=Verified("python -m tools.bench.qnn", "onnxruntime-qnn 2.7.0, software HTP", "2026-11-30"),
            opset=21,
        ),
        # Weights in exact storage are unpacked when the file is loaded, so that it runs as a float16 file. In native
        # storage, DequantizeLinear with block_size and a MatMul become MatMulNBits, which unpacks at every run: that
        # takes less memory of the GPU, and 7 to 9 % more time for few images. No kernel of this provider multiplies
        # the integers of a QDQ file (tools/bench/cuda.py).
        Target(
            "onnxruntime-cuda",
            "onnxruntime on NVIDIA GPUs",
            device="GPU",
            signed_8bit_exact=True,
            kernels=(Kernel(_NARROW, (FLOAT,), "float"),),
            packings=("exact", "native"),
            shared_bytes=False,
            grids=("mid-tread",),
            block=BLOCK,
            half=True,
            wide_sums=True,
            verified=Verified("python -m tools.bench.cuda", "onnxruntime-gpu 1.31.1, NVIDIA H200", "2026-11-30"),
        ),
        # Explicit quantization: int8 with zero point 0 for weights (per channel) and inputs (per tensor), and
        # DequantizeLinear on constants. What is beside the products is in float16.
        Target(
            "tensorrt",
            "TensorRT on NVIDIA GPUs, INT8",
            device="GPU",
            signed_8bit_exact=True,
            kernels=(Kernel(_LOW, (8,), "integer"),),
            packings=("container",),
            symmetric=True,
            folds=False,
            part_products=True,
            half=True,
            verified=Verified("python -m tools.bench.tensorrt", "builder of TensorRT-RTX 1.7.1", "2026-11-30"),
            opset=20,
        ),
        # The same with float8 in place of int8. The standard has no operator that moves float8.
        Target(
            "tensorrt-fp8",
            "TensorRT on NVIDIA GPUs, FP8 (E4M3)",
            device="GPU",
            signed_8bit_exact=True,
            kernels=(Kernel((8,), (8,), "float8"),),
            packings=("container",),
            symmetric=True,
            folds=False,
            part_products=True,
            grids=("e4m3",),
            half=True,
            verified=Verified("python -m tools.bench.tensorrt", "builder of TensorRT-RTX 1.7.1", "2026-11-30"),
            opset=20,
        ),
        # Layers run on int8 kernels if their weights are int8 and have no zero point, and if no operator is left to
        # unpack them at run time: so exact storage is looked up, and does not share bytes (2026.4). Without VNNI,
        # products of 8-bit weights saturate; weights with a zero point run on a float kernel there, which is exact.
        # With VNNI that kernel rounds the inputs to 8 bits anew.
        _openvino("x86-avx2", "x86-64 CPUs without VNNI", signed_8bit_exact=False),
        _openvino("x86-vnni", "x86-64 CPUs with VNNI or AMX", signed_8bit_exact=True),
        _openvino("arm64", "64-bit Arm CPUs", signed_8bit_exact=True),
    )
}


BY_CPU = {"auto": "onnxruntime on this machine", "openvino": "OpenVINO on this machine"}
"""Names that stand for a target of the CPU at hand -> what they stand for."""


def target_for(name: str, machine: str, cpu_flags: Collection[str]) -> Target:
    """Return the target called ``name``; the names of `BY_CPU` choose by the machine.

    Args:
        name: name of the target.
        machine: architecture, as ``platform.machine()`` returns it.
        cpu_flags: instruction sets of this CPU.

    Raises:
        UsageError: the name is unknown.
    """
    if name in BY_CPU:
        vnni = any("vnni" in flag or flag == "amx_int8" for flag in cpu_flags)
        arm = machine.lower() in ("arm64", "aarch64")
        runtime = "onnxruntime" if name == "auto" else name
        return TARGETS[f"{runtime}-{'arm64' if arm else 'x86-vnni' if vnni else 'x86-avx2'}"]
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r}", hint=f"known targets: {', '.join((*BY_CPU, *TARGETS))}")
    return TARGETS[name]
