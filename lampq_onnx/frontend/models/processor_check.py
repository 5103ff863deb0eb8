"""Compares images prepared by transformers' own image processor with images prepared by ours."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from lampq_onnx.data import Interpolation, Preprocessing
from lampq_onnx.data.preprocessing import LEVEL
from lampq_onnx.data.resizing import Resize
from lampq_onnx.errors import LampqError, first_line, is_out_of_memory
from lampq_onnx.importer.processors import class_name
from lampq_onnx.importer.processors.keys import REMEDY, UnsupportedKey

BOUND = 1.0
"""Largest difference in gray levels (0..255). Both sides resize with Pillow, so only rounding remains."""

TORCHVISION_BOUND = 3.0
"""Largest difference for classes that require torchvision, which rounds in another order; 2 was observed."""

_LARGEST = 1024
"""Largest side of the generated images in pixels, so that models with large inputs do not take long to compare."""


def is_installed() -> bool:
    """Whether transformers can be imported."""
    return importlib.util.find_spec("transformers") is not None


def installed_processor(place: str, *, local: bool) -> Any:
    """Load the image processor of a folder or a name on the hub with transformers.

    The variant that resizes with Pillow is used if there is one.

    Args:
        place: folder, or name on the hub.
        local: whether only files of this machine may be read.

    Raises:
        UnsupportedKey: transformers cannot create it. Code in the folder is not run.
    """
    import transformers  # noqa: PLC0415 -- an extra

    def made(**variant: Any) -> Any:
        return transformers.AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            place, local_files_only=local, trust_remote_code=False, **variant
        )

    try:
        if importlib.util.find_spec("transformers.image_processing_backends") is not None:
            return made(backend="pil")
        # Older versions call the Pillow variant of a class "slow", and fail if a class has no such variant.
        fast = made(use_fast=True)
        slow_name = type(fast).__name__.removesuffix("Fast")
        return made(use_fast=False) if hasattr(transformers, slow_name) else fast
    except Exception as error:  # settings, downloads and missing packages fail in many ways
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
        if reason.startswith("Unrecognized image processor"):  # what follows is a list of all that there are
            reason = f"it names no image_processor_type, or one that version {transformers.__version__} does not have"
        raise UnsupportedKey(
            f"transformers cannot make the image processor of {place}: {reason}", hint=REMEDY
        ) from error


def compare_if_installed(path: Path, said: Mapping[str, Any], preprocessing: Preprocessing) -> None:
    """Compare our reading of a settings file with the processor that transformers creates from it.

    Nothing is compared if transformers is not installed or the file does not name the class of the processor.

    Args:
        path: the settings file; transformers reads its folder.
        said: the settings in it.
        preprocessing: our reading of them.

    Raises:
        UnsupportedKey: see `require_same_pixels`.
    """
    if class_name(said) and is_installed():
        require_same_pixels(installed_processor(str(path.parent), local=True), str(path), preprocessing)


def require_same_pixels(processor: Any, source: str, preprocessing: Preprocessing) -> None:
    """Compare both preparations on generated images of several sizes, with gradients, edges and noise in each channel.

    Args:
        processor: image processor of transformers.
        source: the file or model that the settings come from, for messages.
        preprocessing: our preparation.

    Raises:
        UnsupportedKey: a pixel differs by more than `BOUND`; the message names the difference and the likeliest key.
    """
    if preprocessing.channels not in (1, 3):
        raise UnsupportedKey(
            f"{source}: the model takes {preprocessing.channels} channels, but image processors make 1 or 3",
            hint=REMEDY,
        )
    bound = TORCHVISION_BOUND if _by_torchvision(processor) else BOUND
    pictures = list(_pictures(preprocessing))
    theirs = [_theirs(processor, picture, preprocessing, source) for picture in pictures]
    worst = difference(preprocessing, pictures, theirs)
    if worst <= bound:
        return
    name = type(processor).__name__
    key = _likeliest(preprocessing, pictures, theirs, worst)
    found = "the sizes differ" if math.isinf(worst) else f"pixels differ by up to {worst:.1f} of 255 gray levels"
    raise UnsupportedKey(
        f"{source}: {name} of transformers prepares images differently from how its settings are read here: {found}"
        + (f", most likely because of {key}" if key else ""),
        hint=REMEDY,
    )


def difference(
    preprocessing: Preprocessing, pictures: list[Image.Image], theirs: list[npt.NDArray[np.float64]]
) -> float:
    """Largest difference between prepared images in gray levels; infinite if the sizes differ."""
    worst = 0.0
    for picture, wanted in zip(pictures, theirs, strict=True):
        try:
            found = preprocessing.normalize(preprocessing.crop(picture)[None])[0].astype(np.float64)
        except LampqError:  # the rule cannot handle this size
            return math.inf
        if preprocessing.crop_mode == "letterbox" and preprocessing.resize is None:
            found = found[:, : wanted.shape[1], : wanted.shape[2]]
        if found.shape != wanted.shape:
            return math.inf
        levels = np.abs(found - wanted) * np.array(preprocessing.std)[:, None, None] / preprocessing.rescale_factor
        worst = max(worst, float(levels.max()))
    return worst


def _by_torchvision(processor: Any) -> bool:
    backend = getattr(processor, "backend", None)
    return backend == "torchvision" or type(processor).__name__.endswith("Fast")


def _theirs(processor: Any, picture: Image.Image, ours: Preprocessing, source: str) -> npt.NDArray[np.float64]:
    """The result of the processor, float64 (c, h, w).

    A detector's processor gives each image its own size, while a file with one input size letterboxes it. The processor
    is given the size of the letterboxed image, so that everything else is compared.
    """
    told: dict[str, Any] = {}
    if ours.crop_mode == "letterbox" and ours.resize is None:
        scale = ours.placement(picture.height, picture.width).scale
        sides = round(picture.height * scale[0]), round(picture.width * scale[1])
        told = {"size": {"height": sides[0], "width": sides[1]}, "do_pad": False}
    # Older classes do not accept pictures of mode L.
    given = np.asarray(picture)[..., None] if picture.mode == "L" else picture
    try:
        found = processor(given, return_tensors="pt", **told)["pixel_values"]
    except Exception as error:  # classes check their settings late and raise many types
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
        raise UnsupportedKey(
            f"{source}: {type(processor).__name__} of transformers cannot prepare an image of "
            f"{picture.width}x{picture.height} pixels: {reason}",
            hint=REMEDY,
        ) from error
    return np.asarray(found[0], dtype=np.float64)


def _pictures(preprocessing: Preprocessing) -> Iterator[Image.Image]:
    """Square, wide, tall and small images with odd sides; images of the model's size if nothing is resized."""
    height, width = (min(side, _LARGEST) for side in preprocessing.size)
    sizes = [
        (height + height // 4 + 1, width + height // 4 + 1),
        (height + 13, 2 * width + 7),
        (2 * height + 5, width + 10),
        (height // 2 + 3, width // 3 + 5),
    ]
    if preprocessing.resize is not None and preprocessing.resize.to == "none":
        exact = preprocessing.resize.then == "exact"
        sizes = [preprocessing.size] if exact else [preprocessing.size, *sizes]
    random = np.random.default_rng(0)
    for rows, columns in sizes:
        y, x = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
        stripes = (np.arange(columns) // 5 + np.arange(rows)[:, None] // 3) % 2
        planes = np.stack([40 + 180 * x, 200 - 150 * y, 60 + 120 * stripes], axis=2)[..., : preprocessing.channels]
        noisy = planes + random.integers(-30, 31, planes.shape)
        pixels = np.clip(noisy, 0, 255).astype(np.uint8)
        yield Image.fromarray(pixels[..., 0] if preprocessing.channels == 1 else pixels)


def _likeliest(
    ours: Preprocessing, pictures: list[Image.Image], theirs: list[npt.NDArray[np.float64]], worst: float
) -> str:
    """The key whose other value brings both sides closest; empty if none helps much."""
    best, name = worst / 2 if math.isfinite(worst) else math.inf, ""
    for key, changes in _variants(ours):
        found = difference(Preprocessing.model_validate(ours.model_dump() | changes), pictures, theirs)
        if found < best:
            best, name = found, key
    return name or ("size" if math.isinf(worst) else "")


def _variants(ours: Preprocessing) -> Iterator[tuple[str, dict[str, Any]]]:
    if ours.channels == 3:
        yield "do_flip_channel_order", {"channel_order": "rgb" if ours.channel_order == "bgr" else "bgr"}
    for kind in get_args(Interpolation):
        if kind != ours.interpolation:
            yield "resample", {"interpolation": kind}
    plain = {"mean": (0.0,) * ours.channels, "std": (1.0,) * ours.channels}
    yield "do_normalize", plain
    yield "do_rescale", {"rescale_factor": 1.0, "rescale_offset": 0.0}
    yield "rescale_factor", {"rescale_factor": LEVEL, "rescale_offset": 0.0}
    yield "rescale_offset", {"rescale_offset": -1.0 - ours.rescale_offset}
    yield "include_top", {"std": tuple(value**0.5 for value in ours.std)}
    yield "include_top", {"std": tuple(value**2 for value in ours.std)}
    yield "do_center_crop", {"resize": Resize(to="stretch", sides=ours.size).model_dump()}
    yield "do_resize", {"resize": Resize(to="none", then="crop").model_dump()}
    for share in (1.0, 0.95, 0.9, 0.875):
        side = int(min(ours.size) / share)
        yield "crop_pct", {"resize": Resize(to="shortest", sides=(side,), then="crop").model_dump()}
