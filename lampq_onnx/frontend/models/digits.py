"""The embedded default model: a small Vision Transformer for 8x8 images of digits, and its images."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from lampq_onnx.config.inputs import DIGITS
from lampq_onnx.data.npz import ArrayReader
from lampq_onnx.data.source import ImageSource
from lampq_onnx.disk.records import Artifact, Record
from lampq_onnx.errors import LampqError

SplitName = Literal["train", "calibration", "test"]

CONFIG_NAME = "config.json"
CHECKPOINT_NAME = "model.safetensors"

DIGITS_FILE = "datasets/data/digits.csv.gz"
"""Where scikit-learn keeps its images of digits: 64 gray levels and the label, in a line for each image."""

GREY_STEP = 15
"""Factor from scikit-learn's gray levels 0..16 to uint8 values 0..240."""


class DigitsPreprocessing(Record):
    """How an image becomes the model's input, in timm's terms.

    Attributes:
        size: height and width of the input in pixels.
        crop_pct: fraction of the resized image that the crop keeps.
        crop_mode: position of the crop.
        interpolation: filter for resizing.
        mean: mean of pixel values in 0..1, one per channel.
        std: standard deviation of pixel values in 0..1, one per channel.
        channels: number of color channels.
    """

    size: tuple[int, int]
    crop_pct: float = Field(gt=0, le=1)
    crop_mode: Literal["center"]
    interpolation: Literal["bicubic"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: Literal[1]


class DigitsPart(Record):
    """One part of the split.

    Attributes:
        count: number of images.
        sha256: hash of the image indices as little-endian int64, in the order of the split.
    """

    count: int = Field(gt=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class DigitsSplit(Record):
    """Which of scikit-learn's images belong to which part; the indices follow from the labels and the seed.

    Attributes:
        seed: seed of the permutation inside each class.
        images_sha256: hash of all 1797 images as uint8, followed by their labels as little-endian int64.
        train: images that the model was trained on.
        calibration: images for calibration.
        test: images for measuring accuracy.
    """

    seed: int = Field(ge=0)
    images_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    train: DigitsPart
    calibration: DigitsPart
    test: DigitsPart


class DigitsConfig(Artifact):
    """The content of ``config.json`` beside the checkpoint.

    Attributes:
        timm_model: name for ``timm.create_model``.
        timm_args: its keyword arguments.
        preprocessing: how images become inputs.
        split: which images belong to which part.
        float_test_top1: fraction of the test images that the float32 model classifies correctly, 0..1.
        training_command: command that makes the checkpoint and this file, run in the repository root.
    """

    timm_model: str
    timm_args: dict[str, int | float]
    preprocessing: DigitsPreprocessing
    split: DigitsSplit
    float_test_top1: float = Field(ge=0, le=1)
    training_command: str


def digits_folder() -> Path:
    """The folder with the checkpoint and its configuration.

    An installed package contains it; a checkout has it beside the package.

    Raises:
        LampqError: neither place has it.
    """
    package = Path(__file__).resolve().parents[2]
    for root in (package, package.parent):
        folder = root / "models" / "digits"
        if (folder / CONFIG_NAME).is_file() and (folder / CHECKPOINT_NAME).is_file():
            return folder
    raise LampqError(
        f"the embedded digits model is neither inside {package} nor beside it",
        hint="reinstall lampq-onnx, or run tools/train_digits.py in a checkout",
    )


def load_config() -> DigitsConfig:
    """Read the configuration of the embedded model.

    Raises:
        LampqError: the file is missing or not valid.
    """
    return DigitsConfig.load(digits_folder() / CONFIG_NAME)


def split_images(name: SplitName) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Load one part of the embedded split.

    Returns:
        Images uint8 (N, 8, 8, 1), from 0 (paper) to 240 (full ink), and labels int64 (N,). The order is that of the
        split: the first few images hold the classes in nearly equal numbers.

    Raises:
        LampqError: the configuration is missing or not valid, or scikit-learn's images are not those of the training.
    """
    return part_images(load_config().split, name)


def part_images(split: DigitsSplit, name: SplitName) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Load one part of ``split``; see ``split_images``.

    Raises:
        LampqError: scikit-learn's images, or the indices from the seed, do not match the hashes in ``split``.
    """
    images, labels = _all_images()
    if _images_hash(images, labels) != split.images_sha256:
        raise LampqError(
            "scikit-learn's digits images differ from those that the embedded model was made with",
            hint="install another version of scikit-learn",
        )
    counts = {part: getattr(split, part).count for part in ("test", "calibration", "train")}
    indices = _stratified(labels, counts, split.seed)[name]
    if _indices_hash(indices) != getattr(split, name).sha256:
        raise LampqError(
            f"the indices of the {name} images differ from those recorded in {CONFIG_NAME}",
            hint="install another version of NumPy, or restore the file",
        )
    return images[indices], labels[indices]


def make_split(*, train: int, calibration: int, test: int, seed: int) -> DigitsSplit:
    """Describe a split of scikit-learn's images by its counts and seed.

    Raises:
        ValueError: the counts do not add up to the number of images.
    """
    images, labels = _all_images()
    counts = {"test": test, "calibration": calibration, "train": train}
    parts = {
        name: DigitsPart(count=len(indices), sha256=_indices_hash(indices))
        for name, indices in _stratified(labels, counts, seed).items()
    }
    return DigitsSplit(seed=seed, images_sha256=_images_hash(images, labels), **parts)


@cache
def _all_images() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """All images uint8 (1797, 8, 8, 1) and labels int64 (1797,), in scikit-learn's order.

    They are read from its file: to import the package takes a second, a quarter of a quick run.

    Raises:
        LampqError: scikit-learn is not installed, or has no such file.
    """
    package = find_spec("sklearn")
    places = [] if package is None else [Path(place, DIGITS_FILE) for place in package.submodule_search_locations or ()]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise LampqError(
            f"scikit-learn's {DIGITS_FILE}, the embedded images, is not installed", hint="pip install scikit-learn"
        )
    with gzip.open(file, "rt", encoding="ascii") as lines:
        rows = np.loadtxt(lines, delimiter=",", dtype=np.int64)
    images, labels = (rows[:, :-1] * GREY_STEP).astype(np.uint8).reshape(-1, 8, 8, 1), rows[:, -1]
    for kept in (images, labels):
        kept.flags.writeable = False
    return images, labels


def _stratified(labels: npt.NDArray[np.int64], counts: dict[str, int], seed: int) -> dict[str, npt.NDArray[np.int64]]:
    """Disjoint indices into ``labels`` for each name in ``counts``, each with all classes in proportion.

    The images of each class are permuted, then the classes are merged so that every prefix is stratified.
    """
    if sum(counts.values()) != len(labels):
        raise ValueError(f"the counts add up to {sum(counts.values())}, not {len(labels)}")
    # NumPy guarantees that the streams of RandomState never change; those of Generator may.
    random = np.random.RandomState(seed)
    position = np.empty(len(labels), dtype=np.float64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        position[random.permutation(members)] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.argsort(position, kind="stable").astype(np.int64)
    cuts = np.cumsum(list(counts.values()))[:-1]
    return dict(zip(counts, np.split(order, cuts), strict=True))


def _indices_hash(indices: npt.NDArray[np.int64]) -> str:
    return hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()


def _images_hash(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> str:
    return hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()


def digits_source(part: Literal["calibration", "test"]) -> ImageSource:
    """Images of one part of the embedded split."""
    pixels, labels = split_images(part)
    reader = ArrayReader(f"digits/{part}", pixels[..., 0])
    return ImageSource.whole(reader, len(pixels), labels, f"{len(pixels)} digits {part} images")


def are_digits(place: object) -> bool:
    """Whether a place of images means those of the embedded model: `digits`, where no file or folder has that name."""
    return isinstance(place, Path) and place == Path(DIGITS) and not place.exists()
