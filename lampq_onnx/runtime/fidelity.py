"""Check that a runtime's kernels compute what the QDQ arithmetic of each layer says.

Whole models cannot show this: values on a rounding boundary flip, and flips grow through the layers without either
implementation being worse. So every quantized layer is cut out and run both ways on the same input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from lampq_onnx.artifacts.image_size import are_large
from lampq_onnx.converter.inspect import QuantizedLayer
from lampq_onnx.errors import LampqError, is_out_of_memory
from lampq_onnx.runtime.engine import ONNXRUNTIME, Engine
from lampq_onnx.runtime.runtimes import runtime_of
from lampq_onnx.runtime.sessions import batches_for, open_session, session_options

EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
"""onnxruntime option that says where the external data of a model in memory lie."""

LAYERS_AT_ONCE = 16
"""Number of layers whose inputs are held in memory together."""


def layer_errors(
    path: Path,
    layers: Sequence[QuantizedLayer],
    images: npt.NDArray[np.float32],
    *,
    threads: int,
    engine: Engine = ONNXRUNTIME,
) -> dict[str, float]:
    """Return the relative L2 error of each layer: the runtime's kernel against unoptimized QDQ, on the same input.

    The result of a layer is compared in float32, also if the engine rounds it further. Other runtimes than onnxruntime
    get inputs that are levels already, see `on_levels`. An error that is not finite is returned as infinity.

    Args:
        path: the quantized file. External data are in memory for only one layer at a time.
        layers: layers of the file, as `inspect_model` lists them.
        images: (n, c, h, w); inputs of the layers come from the unoptimized model on these images.
        threads: threads of the sessions.
        engine: whose kernels are compared; onnxruntime without optimizations computes what they are compared with.

    Raises:
        LampqError: a layer cannot be cut out or loaded.
    """
    exact = engine.in_float32()
    errors: dict[str, float] = {}
    for layer, (piece, captured) in zip(layers, cut_layers(path, layers, images, threads=threads), strict=True):
        values = captured if engine.runtime == ONNXRUNTIME.runtime else on_levels(piece, layer.input, captured)
        data = piece.SerializeToString()
        results = []
        for optimize, used in ((True, exact), (False, ONNXRUNTIME)):
            try:
                session = open_session(data, threads=threads, optimize=optimize, engine=used)
                parts = session.run(list(layer.outputs), {layer.input: values})
                results.append(np.concatenate([np.asarray(part, np.float64).ravel() for part in parts]))
            except Exception as error:  # exceptions of runtimes have no common public base
                if is_out_of_memory(error):
                    raise
                words = runtime_of(used.runtime).words
                raise LampqError(f"{words} cannot run layer {layer.name} alone: {error}") from error
        kernel, reference = results
        scale = max(float(np.linalg.norm(reference)), float(np.finfo(np.float32).tiny))
        found = float(np.linalg.norm(kernel - reference)) / scale
        errors[layer.name] = found if np.isfinite(found) else float("inf")  # NaN would compare as no error
    return errors


def cut_layers(
    path: Path, layers: Sequence[QuantizedLayer], images: npt.NDArray[np.float32], *, threads: int
) -> Iterator[tuple[onnx.ModelProto, npt.NDArray[np.float32]]]:
    """Yield each layer as a separate model, with the values that it reads in the unoptimized file on ``images``.

    Raises:
        LampqError: a layer cannot be cut out.
    """
    model = onnx.load(path, load_external_data=False)
    if are_large(images.shape) and not _fixed_batch(model) > 1:
        images = images[:1]
    producers = {output: node for node in model.graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for group in _groups(layers):
        captured = _capture(path, [layer.input for layer in group], images, threads)
        for layer, values in zip(group, captured, strict=True):
            yield _cut_out(model, path.parent, layer, values, producers, constants), values


def on_levels(piece: onnx.ModelProto, name: str, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Replace the input of a layer by the levels that its QuantizeLinear rounds it to.

    Values halfway between two levels are common in pictures of few grays, and either level is as near. Runtimes choose
    by the order in which they multiply and add, so they would differ without one of them being wrong.

    Args:
        piece: the layer, see `cut_layers`.
        name: its float input.
        values: the input.

    Returns:
        The input on levels; as it is if the layer does not quantize it.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in piece.graph.initializer}
    found = values
    for node in piece.graph.node:
        if node.op_type == "Clip" and node.input[0] == name:
            found, name = np.clip(found, constants[node.input[1]], constants[node.input[2]]), node.output[0]
        elif node.op_type == "QuantizeLinear" and node.input[0] == name:
            scale, zero = constants[node.input[1]], constants[node.input[2]]
            limits = np.iinfo(zero.dtype)
            codes = np.clip(np.rint(found / scale) + zero.astype(np.float32), limits.min, limits.max)
            levels: npt.NDArray[np.float32] = ((codes - zero.astype(np.float32)) * scale).astype(np.float32)
            return levels
    return values


def _image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Return the input that is not a constant; old exporters list constants as inputs too."""
    constants = {tensor.name for tensor in model.graph.initializer}
    found: onnx.ValueInfoProto = next(value for value in model.graph.input if value.name not in constants)
    return found


def _fixed_batch(model: onnx.ModelProto) -> int:
    """Number of images that a file prescribes; 0: any."""
    shape = _image_input(model).type.tensor_type.shape
    return shape.dim[0].dim_value if shape.dim else 0


def _groups(layers: Sequence[QuantizedLayer]) -> Iterator[Sequence[QuantizedLayer]]:
    for start in range(0, len(layers), LAYERS_AT_ONCE):
        yield layers[start : start + LAYERS_AT_ONCE]


def _capture(
    path: Path, names: Sequence[str], images: npt.NDArray[np.float32], threads: int
) -> list[npt.NDArray[np.float32]]:
    """Return the values of inner tensors in the unoptimized model."""
    model_input, wanted, data = _probe(path, names)
    if not wanted:
        return [images for _ in names]
    options = session_options(threads, optimize=False)
    options.add_session_config_entry(EXTERNAL_FOLDER, str(path.parent.resolve()))
    try:
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        parts = [session.run(wanted, {model_input: batch}) for batch in batches_for(session, images, str(path))]
    except LampqError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common public base
        if is_out_of_memory(error):
            raise
        raise LampqError(f"onnxruntime cannot run {path}: {str(error).strip()[:500]}") from error
    joined = parts[0] if len(parts) == 1 else [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
    found = dict(zip(wanted, joined, strict=True))
    found[model_input] = images
    return [np.asarray(found[name]) for name in names]


def _probe(path: Path, names: Sequence[str]) -> tuple[str, list[str], bytes]:
    """Return the name of the image input, the other tensors among ``names``, and the model with these as outputs."""
    probe = onnx.load(path, load_external_data=False)
    model_input = _image_input(probe).name
    wanted = [name for name in dict.fromkeys(names) if name != model_input]
    present = {output.name for output in probe.graph.output}
    for name in wanted:
        if name not in present:
            probe.graph.output.append(helper.make_empty_tensor_value_info(name))
    return model_input, wanted, probe.SerializeToString()


def _cut_out(
    model: onnx.ModelProto,
    folder: Path,
    layer: QuantizedLayer,
    values: npt.NDArray[np.float32],
    producers: dict[str, onnx.NodeProto],
    constants: dict[str, onnx.TensorProto],
) -> onnx.ModelProto:
    """Make a separate model of the layer, from its float input to its float outputs."""
    nodes: dict[str, onnx.NodeProto] = {}
    used: dict[str, onnx.TensorProto] = {}
    stack = list(layer.outputs)
    while stack:
        name = stack.pop()
        if not name or name == layer.input or name in used:
            continue
        if name in constants:
            used[name] = _loaded(constants[name], folder)
            continue
        node = producers.get(name)
        if node is None:
            raise LampqError(f"layer {layer.name} reads {name}, which is neither its input nor a constant")
        if node.output[0] not in nodes:
            nodes[node.output[0]] = node
            stack.extend(node.input)
    order = [node for node in model.graph.node if node.output and node.output[0] in nodes]
    # The first dimension is symbolic: with a fixed one, onnxruntime may fuse MatMul and Add to a Gemm that it cannot
    # load.
    shape, kind = ["n", *values.shape[1:]], helper.np_dtype_to_tensor_dtype(values.dtype)
    graph = helper.make_graph(
        order,
        "layer",
        [helper.make_tensor_value_info(layer.input, kind, shape)],
        [helper.make_empty_tensor_value_info(output) for output in layer.outputs],
        list(used.values()),
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _loaded(tensor: onnx.TensorProto, folder: Path) -> onnx.TensorProto:
    """Return the constant with its external data loaded."""
    if not uses_external_data(tensor):
        return tensor
    whole = onnx.TensorProto()
    whole.CopyFrom(tensor)
    load_external_data_for_tensor(whole, str(folder))
    whole.data_location = onnx.TensorProto.DEFAULT
    del whole.external_data[:]
    return whole
