"""Metadata keys of this package's files: a file format, described in docs/reference/file-format.md.

A key keeps its name and its meaning, so that later versions can read files of earlier ones. A new fact gets a new key,
and its readers must also work without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "lampq_onnx."
"""Prefix of all keys. Other metadata belongs to other tools, and is removed from files that this package exports."""

SHARED_NAMES = "lampq."
"""Prefix of the names of constants that layers share (tables, shapes, zeros); they hold no weights."""

MODEL_KEY = "lampq_onnx.model"
PREPROCESSING_KEY = "lampq_onnx.preprocessing"
CLASSES_KEY = "lampq_onnx.num_classes"
TASK_KEY = "lampq_onnx.task"
TARGET_KEY = "lampq_onnx.target"
PLAN_KEY = "lampq_onnx.plan"
RECIPE_KEY = "lampq_onnx.recipe"
INPUTS_KEY = "lampq_onnx.inputs"
HASH_KEY = "lampq_onnx.recipe_sha256"
SOURCE_KEY = "lampq_onnx.source_sha256"
UNIT_KEY = "lampq_onnx.unit"
TYPE_KEY = "lampq_onnx.type"
SKETCH_KEY = "lampq_onnx.sketch"
STORAGE_KEY = "lampq_onnx.storage"
WEIGHT_BITS_KEY = "lampq_onnx.weight_bits"
ACTIVATION_BITS_KEY = "lampq_onnx.activation_bits"
SCHEME_KEY = "lampq_onnx.scheme"
CHANNEL_BITS_KEY = "lampq_onnx.channel_bits"
CHANNEL_ROWS_KEY = "lampq_onnx.channel_rows"
CHANNEL_CLASSES_KEY = "lampq_onnx.channel_classes"
FLOAT32_KEY = "lampq_onnx.float32_values"
MODULE_KEY = "lampq_onnx.module"

Place = Literal["model", "product", "weight", "pool", "memory"]
"""Where a key is stored: metadata_props of the model, of a layer's MatMul, Gemm or Conv, of the node that scales its
weight, or of the Gather that orders the rows of a pool; memory: only while a file is being processed."""


@dataclass(frozen=True)
class Key:
    """One key of the file format.

    Attributes:
        name: the key.
        places: where it is stored.
        meaning: what its value means.
        since: first version that writes it.
        readers: what reads it.
    """

    name: str
    places: tuple[Place, ...]
    meaning: str
    since: str
    readers: str


KEYS = (
    Key(
        MODEL_KEY,
        ("model",),
        "name of the model; its presence marks a file that this package exported",
        "0.1",
        "every command that takes a file",
    ),
    Key(
        PREPROCESSING_KEY,
        ("model",),
        "how images are prepared, JSON of `Preprocessing`",
        "0.1",
        "`quantize`, `convert`, `validate`, `package`",
    ),
    Key(CLASSES_KEY, ("model",), "number of classes, decimal; absent: not known", "0.1", "`validate`"),
    Key(
        TASK_KEY,
        ("model",),
        "meaning of the outputs, JSON of `TaskSpec`; absent: classification",
        "0.1",
        "`quantize`, `validate`",
    ),
    Key(
        TARGET_KEY,
        ("model",),
        "name of the target that the file was made for",
        "0.1",
        "`validate`, `explain`, tools/bench/runtime.py",
    ),
    Key(PLAN_KEY, ("model",), "the plan, JSON of `BitPlan`", "0.1", "`validate`"),
    Key(RECIPE_KEY, ("model",), "options that decide the bytes of the file, TOML", "0.1", "`reproduce`"),
    Key(
        INPUTS_KEY,
        ("model",),
        "hashes of weights, images and code, and versions, JSON of `Inputs`",
        "0.1",
        "`reproduce`",
    ),
    Key(HASH_KEY, ("model",), "sha256 of recipe, line feed, inputs", "0.1", "`reproduce`"),
    Key(
        SOURCE_KEY,
        ("model",),
        "sha256 of the constants of the float file that a quantized one was made from",
        "0.1",
        "`validate`",
    ),
    Key(
        UNIT_KEY,
        ("product", "weight"),
        "what the node computes: at a product the name of its layer, at a weight that name and `.weight`",
        "0.1",
        "every command that takes a file",
    ),
    Key(
        TYPE_KEY,
        ("product",),
        "role of the layer: qkv, proj, fc1, fc2, patch_embed, head, linear or conv",
        "0.1",
        "`quantize`, `inspect`",
    ),
    Key(
        SKETCH_KEY,
        ("product",),
        "norm and 8 projections of the weights before equalization, JSON list; absent: those in the file",
        "0.1",
        "`convert`, to find the layers of a plan made on another file of the model",
    ),
    Key(
        STORAGE_KEY,
        ("weight",),
        "how the integers are stored in the file: exact, int2, int4, int8 or uint8",
        "0.1",
        "`inspect`, `validate`, `explain`",
    ),
    Key(
        WEIGHT_BITS_KEY, ("weight",), "planned width of the weights, decimal", "0.1", "`inspect`, `validate`, `explain`"
    ),
    Key(
        ACTIVATION_BITS_KEY,
        ("weight",),
        "planned width of the input, decimal; 32: float",
        "0.1",
        "`inspect`, `validate`, `explain`",
    ),
    Key(
        SCHEME_KEY,
        ("weight",),
        "grid of the levels: mid-tread (zero is one), mid-rise, or mixed: by the width of the channel",
        "0.1",
        "`inspect`, `validate`",
    ),
    Key(
        CHANNEL_BITS_KEY,
        ("weight",),
        "number of output channels of each width, e.g. `3:128 5:64`; absent: all have the planned width, which else is "
        "the widest of these",
        "0.1",
        "`inspect`, `validate`",
    ),
    Key(
        CHANNEL_ROWS_KEY,
        ("weight",),
        "pool that holds the rows of the weight, index of the first one, and numbers in a row; absent: not in a pool",
        "0.1",
        "`inspect`; `validate`, for the widths of single channels",
    ),
    Key(
        CHANNEL_CLASSES_KEY,
        ("pool",),
        "width of each class of rows, in the order of their numbers, separated by blanks",
        "0.1",
        "`validate`, for the widths of single channels",
    ),
    Key(
        FLOAT32_KEY,
        ("model",),
        "tensors of a float file that overflow in float16 on the calibration images, JSON of `Overflows`; absent: not "
        "measured",
        "0.1",
        "`convert`, for targets that compute in float16",
    ),
    Key(MODULE_KEY, ("memory",), "which PyTorch module stands for the node", "0.1", "the front end for ONNX files"),
)
"""All keys of the format, in the order of the page that describes it."""
