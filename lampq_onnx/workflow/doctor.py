"""Check that this environment and a model can be used, before hours are spent."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from packaging.requirements import Requirement

from lampq_onnx.artifacts.finding import Finding, Status
from lampq_onnx.config.inputs import DIGITS
from lampq_onnx.config.recipe import Recipe
from lampq_onnx.disk.cache import cache_folder
from lampq_onnx.errors import GateError
from lampq_onnx.runtime import open_runner
from lampq_onnx.runtime.environment import available_cores, describe_environment, target_here
from lampq_onnx.targets import TARGETS

DISTRIBUTION = "lampq-onnx"

ENOUGH_DISK = 4 * 2**30
"""Free bytes needed for crops of calibration images, files of a large model and cached results."""

ENOUGH_MEMORY = 4 * 2**30
"""Bytes of memory that PyTorch, onnxruntime and a base-size model need together."""

CUDA_PROVIDER = "CUDAExecutionProvider"

KERNEL_BOUND = 1e-4
"""Relative error of an exact int8 kernel, which only rounds sums."""


ENVIRONMENT = "environment"
"""Key of what is found out about this machine."""


def examine(recipes: Sequence[Recipe], folder: Path) -> dict[str, tuple[Finding, ...]]:
    """Look at the environment, and at models: do export and preprocessing reproduce their accuracy?

    Args:
        recipes: one for each model.
        folder: where output would go.

    Returns:
        ``environment`` or the name of a model -> what was found, in the order of looking.

    Raises:
        LampqError: a model or its images cannot be read.
    """
    return {
        ENVIRONMENT: tuple(examine_environment(folder)),
        **{recipe.model.name: tuple(_examine_model(recipe)) for recipe in recipes},
    }


def require_fit(groups: Mapping[str, Sequence[Finding]]) -> None:
    """Refuse an environment or a model with which no right result is possible.

    Raises:
        GateError: names what failed.
    """
    failed = [finding.name for found in groups.values() for finding in found if finding.status == "failure"]
    if failed:
        raise GateError(f"fix these first: {', '.join(failed)}")


def _examine_model(recipe: Recipe) -> Iterator[Finding]:
    from lampq_onnx.evaluation.tasks.meters import open_validation
    from lampq_onnx.frontend.checkup import examine_model
    from lampq_onnx.frontend.models.digits import are_digits, digits_source
    from lampq_onnx.frontend.opening import load_model

    loaded = load_model(recipe.model, recipe.images)
    source = None
    if are_digits(recipe.images.validation):
        source = digits_source("test")
    elif recipe.images.validation is not None:
        source = open_validation(recipe.images.validation, loaded.task, loaded.identity.num_classes)
    elif recipe.model.name == DIGITS:
        source = digits_source("test")
    yield from examine_model(loaded, source)


def examine_environment(folder: Path) -> Iterator[Finding]:
    """Check versions, processor, kernels, memory and disk.

    Args:
        folder: where output would go.
    """
    yield from versions()
    yield processor()
    yield kernels()
    yield providers()
    yield memory()
    yield from disk(folder)


def versions() -> Iterator[Finding]:
    """Compare installed packages with the version ranges that this package declares."""
    wrong = []
    names = []
    for text in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        names.append(f"{requirement.name} {found}")
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
    main = [n for n in names if n.split()[0] in ("onnx", "onnxruntime", "torch", "timm")]
    detail = "; ".join(wrong) if wrong else f"{len(names)} packages in their ranges: {', '.join(main)}"
    advice = "install these versions, or the package again in a new environment" if wrong else ""
    yield Finding("packages", "failure" if wrong else "ok", detail, advice)


def processor() -> Finding:
    """Report the instruction sets, and the target that they lead to."""
    environment = describe_environment("")
    target = target_here("auto")
    flags = ", ".join(environment.cpu_flags) or "none that matter"
    detail = (
        f"{environment.cpu}, {available_cores()} core(s), {flags}; --target auto is {target.name}. Other processors "
        "round sums in another order: the same run there gives the same widths, but not every rounded weight"
    )
    if target.signed_8bit_exact:
        return Finding("processor", "ok", detail)
    exact = ", ".join(name for name, other in TARGETS.items() if other.signed_8bit_exact)
    return Finding(
        "processor",
        "warning",
        f"{detail}: 8-bit weights take a slower form here, since int8 products saturate",
        f"times on this machine do not apply to {exact}; give --target for a file that runs elsewhere",
    )


def kernels() -> Finding:
    """Compare an int8 product with extreme numbers in onnxruntime, in the form of this machine's target, with numpy."""
    target = target_here("auto")
    with tempfile.TemporaryDirectory(prefix="lampq-") as folder:
        path = Path(folder, "product.onnx")
        model, x, expected = _extreme_product(signed=target.signed_8bit_exact)
        onnx.save(model, path)
        found = open_runner(path, threads=1)(x)
    error = float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    detail = f"int8 product with extreme numbers: relative error {error:.1e}"
    if error <= KERNEL_BOUND:
        return Finding("kernels", "ok", detail)
    return Finding(
        "kernels",
        "failure",
        f"{detail} (bound {KERNEL_BOUND:.0e}): onnxruntime's kernel saturates",
        "give another --target, or report the processor and the version of onnxruntime",
    )


def _extreme_product(*, signed: bool) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    rows, columns = 256, 64
    random = np.random.default_rng(0)
    codes = random.choice([-128, -127, 127], (rows, columns)).astype(np.int8)
    weight, zero = (codes, np.int8(0)) if signed else ((codes.astype(np.int16) + 128).astype(np.uint8), np.uint8(128))
    x = random.choice([0.0, 254.0, 255.0], (8, 1, 1, rows)).astype(np.float32)
    kind = TensorProto.INT8 if signed else TensorProto.UINT8
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["dx"]),
            helper.make_node("DequantizeLinear", ["w", "one", "wz"], ["dw"]),
            helper.make_node("MatMul", ["dx", "dw"], ["y"]),
        ],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 1, rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 1, columns])],
        [
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("zero", TensorProto.UINT8, [], [0]),
            helper.make_tensor("w", kind, weight.shape, weight.flatten().tolist()),
            helper.make_tensor("wz", kind, [], [int(zero)]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model, x, x.astype(np.float64) @ codes.astype(np.float64)


def providers() -> Finding:
    """Say which file belongs to which execution provider of this onnxruntime."""
    found = ort.get_available_providers()
    detail = f"onnxruntime offers {', '.join(name.removesuffix('ExecutionProvider') for name in found)}"
    if CUDA_PROVIDER not in found:
        return Finding("providers", "ok", f"{detail}; files for CPUs run in CPUExecutionProvider")
    return Finding(
        "providers",
        "warning",
        f"{detail}: a file for a CPU is slower than the float file in a session of {CUDA_PROVIDER}, which has no "
        "integer kernels for it",
        "make a file with --target onnxruntime-cuda for such sessions, or open files for CPUs with "
        'providers=["CPUExecutionProvider"]',
    )


def memory() -> Finding:
    """Report the memory of the machine and how much of it is free."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not available on every system
        return Finding("memory", "warning", "this system does not say how much memory it has")
    detail = f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB unused"
    if total < ENOUGH_MEMORY:
        return Finding("memory", "warning", detail, "models of base size need 4 GiB; quantize smaller ones here")
    return Finding("memory", "ok", detail)


def disk(folder: Path) -> Iterator[Finding]:
    """Check free space, and the right to write, where files go."""
    places = {"output": folder, "temporary files": Path(tempfile.gettempdir()), "cache": cache_folder()}
    advice = {
        "output": "choose another folder with --output",
        "temporary files": "set TMPDIR to another folder",
        "cache": "set LAMPQ_ONNX_CACHE to another folder",
    }
    for name, place in places.items():
        label = f"disk: {name}"
        if place is None:
            yield Finding(label, "warning", "there is no home folder; nothing is kept between runs", advice[name])
            continue
        near = place
        while not near.exists() and near != near.parent:
            near = near.parent
        free = shutil.disk_usage(near).free
        detail = f"{place}: {free / 2**30:.1f} GiB free"
        if not os.access(near, os.W_OK) or not near.is_dir():
            status: Status = "warning" if name == "cache" else "failure"
            yield Finding(label, status, f"{place} cannot be written", advice[name])
        elif free < ENOUGH_DISK:
            yield Finding(label, "warning", detail, advice[name])
        else:
            yield Finding(label, "ok", detail)
