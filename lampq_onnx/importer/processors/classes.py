"""The known image processor classes of transformers, with their default values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Rule = Literal["plain", "convnext", "poolformer", "levit", "dpt", "detector", "sam"]
"""How sizes are read: as in the base class, or as in a class with its own rule."""

NEAREST, LANCZOS, BILINEAR, BICUBIC = 0, 1, 2, 3
"""Pillow's numbers of the filters."""

_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_CLIP = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_ALWAYS = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}


@dataclass(frozen=True)
class ProcessorClass:
    """How one class reads its keys.

    Attributes:
        name: name of the class without the endings Fast and Pil; empty for a file that names no class.
        defaults: key -> value if the file does not have the key.
        varying: keys whose default depends on the version of transformers, so that the file must have them.
        square: whether a size of one number means height and width; otherwise it means the shortest side.
        rule: how sizes are read.
        own_keys: keys that only such classes read.
        normalizes: whether do_normalize is read.
    """

    name: str
    defaults: Mapping[str, Any]
    varying: frozenset[str] = frozenset()
    square: bool = True
    rule: Rule = "plain"
    own_keys: frozenset[str] = field(default_factory=frozenset)
    normalizes: bool = True


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _shortest(side: int) -> dict[str, int]:
    return {"shortest_edge": side}


def _known(
    name: str, statistics: Mapping[str, Any], size: Mapping[str, int] | None, resample: int | None, **rest: Any
) -> ProcessorClass:
    """Create a class; a size or resample of None varies between versions of transformers.

    ``rest`` holds other attributes, and other defaults under ``more``.
    """
    defaults = {**_ALWAYS, **statistics, **rest.pop("more", {})}
    if size is not None:
        defaults["size"] = dict(size)
    varying = frozenset(rest.pop("varying", ()))
    if resample is None:
        varying |= {"resample"}
    else:
        defaults["resample"] = resample
    own = frozenset(rest.pop("own_keys", ()))
    return ProcessorClass(name, MappingProxyType(defaults), varying, own_keys=own, **rest)


def _crops(side: int) -> dict[str, Any]:
    return {"do_center_crop": True, "crop_size": _square(side)}


_DETECTOR_SIZE = {"shortest_edge": 800, "longest_edge": 1333}
_DETECTOR_KEYS = ("max_size", "pad_and_return_pixel_mask")


def _detector(name: str) -> ProcessorClass:
    return _known(
        name, _IMAGENET, _DETECTOR_SIZE, BILINEAR, square=False, rule="detector", own_keys=_DETECTOR_KEYS,
        more={"do_pad": True},
    )  # fmt: skip


_CLASSES = (
    _known("ViT", _HALF, _square(224), BILINEAR),
    _known("DeiT", _HALF, _square(256), BICUBIC, more=_crops(224)),
    _known("Beit", _HALF, None, BICUBIC, varying=["size", "do_center_crop"], more={"crop_size": _square(224)}),
    _known("Bit", _CLIP, _shortest(224), BICUBIC, square=False, more=_crops(224)),
    _known("Blip", _CLIP, _square(384), BICUBIC),
    _known("CLIP", _CLIP, _shortest(224), BICUBIC, square=False, more=_crops(224)),
    _known("ChineseCLIP", _CLIP, _shortest(224), BICUBIC, square=False, more=_crops(224)),
    _known("Siglip", _HALF, _square(224), BICUBIC, square=False),
    _known("Pvt", _IMAGENET, _square(224), None),
    _known("MobileNetV1", _HALF, _shortest(256), BILINEAR, square=False, more=_crops(224)),
    _known("MobileNetV2", _HALF, _shortest(256), BILINEAR, square=False, more=_crops(224)),
    _known("DINOv3ViT", _IMAGENET, _square(224), BILINEAR),
    _known("Segformer", _IMAGENET, _square(512), BILINEAR),
    _known("OwlViT", _CLIP, _square(768), BICUBIC, more={"crop_size": _square(768)}),
    _known(
        "ConvNext", _HALF, _shortest(384), None, square=False, rule="convnext", own_keys=["crop_pct"],
        more={"crop_pct": 224 / 256},
    ),
    _known(
        "PoolFormer", _IMAGENET, _shortest(224), BICUBIC, square=False, rule="poolformer", own_keys=["crop_pct"],
        more={"crop_pct": 0.9, **_crops(224)},
    ),
    _known("Levit", _IMAGENET, _shortest(224), BICUBIC, square=False, rule="levit", more=_crops(224)),
    _known(
        "MobileViT", {}, _shortest(224), None, square=False, own_keys=["do_flip_channel_order"], normalizes=False,
        more={"do_flip_channel_order": True, "do_normalize": False, **_crops(256)},
    ),
    _known(
        "EfficientNet", _HALF, _square(346), None, own_keys=["rescale_offset", "include_top"],
        more={"crop_size": _square(289), "rescale_offset": False, "include_top": True},
    ),
    _known(
        "DPT", _HALF, _square(384), BICUBIC, rule="dpt",
        own_keys=["keep_aspect_ratio", "ensure_multiple_of", "size_divisor"],
        more={"keep_aspect_ratio": False, "ensure_multiple_of": 1},
    ),
    *map(_detector, ("Detr", "Yolos", "ConditionalDetr", "DeformableDetr")),
    _known(
        "RTDetr", _IMAGENET, _square(640), BILINEAR, square=False, rule="detector", own_keys=_DETECTOR_KEYS,
        more={"do_normalize": False},
    ),
    _known(
        "Sam", _IMAGENET, {"longest_edge": 1024}, BILINEAR, rule="sam", own_keys=["mask_size", "mask_pad_size"],
        more={"do_pad": True, "pad_size": _square(1024)},
    ),
)  # fmt: skip

KNOWN: Mapping[str, ProcessorClass] = MappingProxyType({found.name + "ImageProcessor": found for found in _CLASSES})
"""Name in a file, without the endings Fast and Pil -> class."""

UNNAMED = ProcessorClass(
    "",
    MappingProxyType({"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "resample": BILINEAR}),
    own_keys=frozenset({"crop_pct", "do_flip_channel_order", "rescale_offset"}),
    rule="convnext",
)
"""Settings for a file that names no class: the base class's filter, but no default statistics or sizes."""


def class_name(said: Mapping[str, Any]) -> str:
    """The class that a file names, without the endings of variants; empty if it names none."""
    name = said.get("image_processor_type") or said.get("feature_extractor_type") or ""
    name = str(name).replace("FeatureExtractor", "ImageProcessor")
    for ending in ("Fast", "Pil"):
        name = name.removesuffix(ending)
    return name
