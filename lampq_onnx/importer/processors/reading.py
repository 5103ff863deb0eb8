"""Turns the settings of an image processor into `Preprocessing`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.data import Interpolation, Preprocessing
from lampq_onnx.data.preprocessing import LEVEL
from lampq_onnx.errors import LampqError, UsageError
from lampq_onnx.importer.processors.classes import KNOWN, UNNAMED, ProcessorClass, class_name
from lampq_onnx.importer.processors.keys import (
    REMEDY,
    MissingStatistics,
    UnsupportedKey,
    refused,
    require_known_keys,
)
from lampq_onnx.importer.processors.sizes import Sizes

CROP = 0.9
"""Fraction of the image that is kept by default, as in timm for ViTs."""

_FILTERS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Names of Pillow's filters, at the positions of their numbers."""


def preprocessing_of(
    said: Mapping[str, Any],
    source: str,
    *,
    channels: int | None = None,
    configured: tuple[int, int] | None = None,
    images: ImageOptions | None = None,
    installed: Mapping[str, Any] | None = None,
    compare: Callable[[Preprocessing], None] | None = None,
) -> Preprocessing:
    """Read a processor's settings; --mean, --std and --crop override them.

    Args:
        said: keys and values of preprocessor_config.json, or of an image processor's `to_dict`.
        source: the file or model, for messages.
        channels: channels of the model; None uses the number of means.
        configured: height and width that the model was made for, if known.
        images: the options.
        installed: defaults of the class in the installed transformers, for keys whose default depends on the version.
        compare: called with the reading of the settings before the options override it; raises UnsupportedKey if images
            are prepared differently.

    Raises:
        UnsupportedKey: a key is not supported; the message names it. If --mean, --std and --crop are all given, they
            replace the whole file instead.
        LampqError: the values contradict each other.
    """
    images = images or ImageOptions()
    try:
        found = _Reader(said, source, channels, configured, installed or {}).read(images)
        if compare is not None:
            compare(found)
    except UnsupportedKey:
        if not replace_settings(images):
            raise
        return plain_preprocessing(source, channels=channels, size=configured, images=images)
    found = found.override(mean=images.mean, std=images.std, crop_pct=images.crop)
    return _resized(found, source, images)


def _resized(found: Preprocessing, source: str, images: ImageOptions) -> Preprocessing:
    """The preprocessing with the size of --input-size.

    Raises:
        UsageError: a crop of another size is made, which does not follow from the new one.
    """
    size = images.input_size
    if size is None or size == found.size:
        return found
    if found.crop_mode == "center" and images.crop is None:
        raise UsageError(
            f"--input-size is {_sides(size)}, and {source} crops images to {_sides(found.size)}",
            hint="write the new size and crop_size into that file, or give --crop as well",
        )
    return found.model_copy(update={"size": size, "resize": None})


def _sides(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


def replace_settings(images: ImageOptions) -> bool:
    """Whether --mean, --std and --crop are all given, which may replace unsupported settings."""
    return None not in (images.mean, images.std, images.crop)


def plain_preprocessing(
    source: str, *, channels: int | None, size: tuple[int, int] | None, images: ImageOptions
) -> Preprocessing:
    """The preprocessing from the options alone: bicubic, with a center crop.

    Raises:
        UsageError: --mean or --std is missing, or the size is not known.
        LampqError: the values contradict each other.
    """
    if images.mean is None or images.std is None:
        raise UsageError(
            f"{source} does not say how its images are normalized",
            hint="give --mean and --std (ImageNet's are 0.485,0.456,0.406 and 0.229,0.224,0.225), or put its "
            "preprocessor_config.json beside it",
        )
    size = images.input_size or size
    if size is None:
        raise UsageError(
            f"{source} takes images of any size, and nothing says which one it was trained on",
            hint="give --input-size HEIGHTxWIDTH, or put its preprocessor_config.json beside it",
        )
    return _checked(
        source,
        size=size,
        crop_pct=CROP if images.crop is None else images.crop,
        crop_mode="center",
        interpolation="bicubic",
        mean=images.mean,
        std=images.std,
        channels=channels or len(images.mean),
    )


class _Reader:
    """Reads the settings of one processor; for the arguments see `preprocessing_of`."""

    def __init__(
        self,
        said: Mapping[str, Any],
        source: str,
        channels: int | None,
        configured: tuple[int, int] | None,
        installed: Mapping[str, Any],
    ) -> None:
        self._source = source
        self._channels = channels
        self._configured = configured
        self._kind = self._class(said)
        require_known_keys(said, source, self._kind)
        given = {key: value for key, value in said.items() if value is not None}
        varying = {key: installed[key] for key in self._kind.varying if installed.get(key) is not None}
        self._values = {**varying, **self._kind.defaults, **given}
        if "pad_and_return_pixel_mask" in given:
            self._values["do_pad"] = given.get("do_pad", given["pad_and_return_pixel_mask"])
        for key in self._kind.varying - self._values.keys():
            raise refused(
                source,
                key,
                f"is missing, and versions of transformers differ in its default for {self._kind.name}ImageProcessor",
                hint=f"write the {key} that the model was trained with into the file",
            )

    def read(self, images: ImageOptions) -> Preprocessing:
        """Read the settings; --mean and --std are used only if there are no statistics that fit the model."""
        values = self._values
        fit = Sizes(values, self._kind, self._source, self._configured).fit()
        try:
            mean, std = self._statistics(self._channels or 3)
        except MissingStatistics:
            if images.mean is None or images.std is None:
                raise
            mean, std = images.mean, images.std
        return _checked(
            self._source,
            size=fit.size,
            crop_pct=1.0,
            crop_mode="letterbox" if fit.resize is None else "squash" if fit.resize.to == "stretch" else "center",
            # "squash" also means plain stretching, and older files use it.
            resize=None if fit.resize is not None and fit.resize.then == "exact" and fit.resize.sides else fit.resize,
            interpolation=self._filter(),
            mean=mean,
            std=std,
            channels=self._channels or len(mean),
            channel_order="bgr" if values.get("do_flip_channel_order") else "rgb",
            rescale_factor=self._factor() if values.get("do_rescale") else 1.0,
            rescale_offset=-1.0 if values.get("do_rescale") and values.get("rescale_offset") else 0.0,
        )

    def _class(self, said: Mapping[str, Any]) -> ProcessorClass:
        name = class_name(said)
        if not name:
            return UNNAMED
        if name not in KNOWN:
            raise refused(
                self._source, "image_processor_type", f"is {name}, which is not a known image processor", REMEDY
            )
        return KNOWN[name]

    def _filter(self) -> Interpolation:
        number = self._values["resample"]
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(_FILTERS):
            known = ", ".join(f"{index} ({name})" for index, name in enumerate(_FILTERS))
            raise refused(self._source, "resample", f"is {number!r}, and known are {known}")
        return _FILTERS[number]

    def _factor(self) -> float:
        factor = self._values["rescale_factor"]
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
            raise refused(self._source, "rescale_factor", f"is {factor!r}, not a number greater than 0")
        # Files write 1/255 as 0.00392156862745098 or similar.
        return LEVEL if math.isclose(factor, LEVEL, rel_tol=1e-6) else float(factor)

    def _statistics(self, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of rescaled values, one number per channel."""
        values = self._values
        normalize = values.get("do_normalize")
        if normalize is None:
            normalize = "image_mean" in values or "image_std" in values
            if not normalize:
                raise MissingStatistics(
                    f"{self._source}: image_mean is missing, and there is no default for it",
                    hint="give --mean and --std, or write do_normalize: false into the file if values are not "
                    "normalized",
                )
        mean, std = (0.0,) * count, (1.0,) * count
        if normalize:
            mean, std = self._numbers("image_mean", count), self._numbers("image_std", count)
        if values.get("include_top"):
            # EfficientNet's class divides by image_std once more, for its classifier.
            std = tuple(a * b for a, b in zip(std, self._numbers("image_std", count), strict=True))
        return mean, std

    def _numbers(self, key: str, count: int) -> tuple[float, ...]:
        found = self._values.get(key)
        if isinstance(found, int | float) and not isinstance(found, bool):
            found = [found] * count
        if not isinstance(found, list | tuple) or not all(
            isinstance(number, int | float) and not isinstance(number, bool) for number in found
        ):
            problem = "is missing" if found is None else f"is {found!r}, not numbers"
        elif len(found) != count:
            problem = f"has {len(found)} numbers, and the model takes {count} channels"
        else:
            return tuple(map(float, found))
        raise MissingStatistics(
            f"{self._source}: {key} {problem}", hint=f"give --mean and --std with {count} numbers each"
        )


def _checked(source: str, **values: Any) -> Preprocessing:
    try:
        return Preprocessing.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        text = problem["msg"].removeprefix("Value error, ")
        raise LampqError(
            f"the preprocessing of {source} is not supported: {f'{where}: ' if where else ''}{text}"
        ) from error
