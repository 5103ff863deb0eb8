"""Sorts every key of a processor's file: applied, without effect on pixels, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lampq_onnx.errors import LampqError
from lampq_onnx.importer.processors.classes import ProcessorClass

OBEYED = frozenset(
    [
        *("do_resize", "size", "resample", "default_to_square", "do_center_crop", "crop_size"),
        *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "do_pad", "pad_size"),
    ]
)
"""Keys that all classes apply."""

IGNORED = frozenset(
    [
        *("image_processor_type", "feature_extractor_type", "processor_class", "_processor_class", "auto_map"),
        *("transformers_version", "_name_or_path", "name_or_path", "model_input_names", "model_type", "torch_dtype"),
        *("_valid_processor_keys", "_valid_kwargs_names", "image_seq_length", "image_seq_len"),
        *("data_format", "input_data_format", "return_tensors", "device", "disable_grouping"),  # format of the result
        *("do_convert_rgb",),  # pictures always become RGB if a model takes three channels
        *("do_reduce_labels", "reduce_labels", "num_labels", "ignore_index", "id2label", "label2id"),  # for labels
        *("format", "annotation_format", "do_convert_annotations", "return_segmentation_masks"),  # for labels
        *("mask_size", "mask_pad_size"),  # for masks that a user draws
    ]
)
"""Keys that do not change any pixel of the model's input."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "do_flip_channel_order": (False,),
    "crop_pct": (),
    "rescale_offset": (False,),
    "offset": (False,),
    "include_top": (False,),
    "keep_aspect_ratio": (False,),
    "ensure_multiple_of": (1,),
    "size_divisor": (1,),
    "size_divisibility": (0, 1),
    "max_size": (),
    "pad_and_return_pixel_mask": (),
    "do_thumbnail": (False,),
    "do_align_long_axis": (False,),
    "do_crop_margin": (False,),
    "do_grayscale": (False,),
    "do_color_quantize": (False,),
    "do_image_splitting": (False,),
    "do_split_image": (False,),
    "do_pan_and_scan": (False,),
    "crop_to_patches": (False,),
    "do_affine_transform": (False,),
    "use_square_size": (False,),
}
"""Keys of single classes -> values that have no effect, and may therefore appear in any file."""

REMEDY = (
    "give --mean, --std and --crop, which then replace the whole file (RGB, bicubic, center crop), or remove the key "
    "if the model was not trained with it"
)


class UnsupportedKey(LampqError):
    """A key, or its value, is not supported."""


class MissingStatistics(UnsupportedKey):
    """The mean or the standard deviation is missing, or does not fit the model."""


def refused(source: str, key: str, why: str, hint: str = REMEDY) -> UnsupportedKey:
    """The error for a key of the file ``source``."""
    return UnsupportedKey(f"{source}: {key} {why}", hint=hint)


def require_known_keys(said: Mapping[str, Any], source: str, kind: ProcessorClass) -> None:
    """Check that each key is applied, has no effect on pixels, or has a value without effect.

    Raises:
        UnsupportedKey: names the first other key.
    """
    for key, value in said.items():
        if key in OBEYED | IGNORED | kind.own_keys or value is None or value in NEUTRAL.get(key, ()):
            continue
        if key in NEUTRAL and kind.name:
            raise refused(source, key, f"is {value}, which {kind.name}ImageProcessor does not read")
        raise refused(source, key, f"is {value}, which is not supported")
    if not kind.normalizes and said.get("do_normalize"):
        raise refused(source, "do_normalize", f"is true, which {kind.name}ImageProcessor does not read")
