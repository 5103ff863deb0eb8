"""Everything a run can be told, as typed values; the command line and the Python API share them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from lampq_onnx.artifacts.base import Record

Scalar = bool | int | float | str

MadeImages = Literal["synthetic", "noise"]

DEFAULT_CALIBRATION_SIZE = 128

EffortName = Literal["fast", "balanced", "best"]


def calibration_of(value: str | Path | None) -> Path | MadeImages | None:
    """A path, or one of the words for images made from the model (a folder of that name: ./synthetic)."""
    words: tuple[MadeImages, ...] = get_args(MadeImages)
    made = next((word for word in words if value == word), None)
    return made or (None if value is None else Path(value))


class ModelOptions(Record):
    """Which model, and where its weights are."""

    name: str
    checkpoint: Path | None = None
    pretrained: bool = False
    model_args: dict[str, Scalar] = Field(default_factory=dict)
    device: str = "cpu"


class ImageOptions(Record):
    """Images and what they go through.

    Attributes:
        calibration: a source of images, or how to make them from the model alone.
        calibration_size: None: as many as the effort can use.
    """

    calibration: Path | MadeImages | None = None
    validation: Path | None = None
    calibration_size: Annotated[int | None, Field(ge=1)] = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop: float | None = None


class SyntheticOptions(Record):
    """How calibration images are made from the model alone."""

    size: Annotated[int, Field(ge=1)] = 64
    steps: Annotated[int, Field(ge=1)] = 40
    lr: Annotated[float, Field(gt=0)] = 0.2
    entropy_weight: Annotated[float, Field(ge=0)] = 4.0
    class_weight: Annotated[float, Field(ge=0)] = 1.0
    variation_weight: Annotated[float, Field(ge=0)] = 30.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class AnalysisOptions(Record):
    """How sensitivities are measured.

    Attributes:
        activation_bits: width of the inputs; mixed or same: costs of several widths are measured.
        activation_candidates: those widths, for mixed.
        weight_bits: average width that is expected; decides how far inputs are equalized.
        equalize: whether they are.
        effort: how much is measured.
    """

    activation_bits: int | Literal["mixed", "same"] = 8
    activation_candidates: tuple[int, ...] = (4, 6, 8, 16)
    weight_bits: Annotated[float, Field(ge=1, le=8)] = 4.0
    equalize: bool = True
    effort: EffortName = "balanced"
    labels: Literal["sampled", "given"] = "sampled"
    alpha_bits: Annotated[int | None, Field(ge=1, le=8)] = None
    alpha_samples: Annotated[int, Field(ge=1)] = 3
    alpha_measure: Literal["kl", "nll", "top1"] = "kl"
    candidates: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)


class RoundingOptions(Record):
    """The base quantizer's rounding.

    Attributes:
        method: nearest leaves out everything else.
        effort: what is tried beyond GPTQ.
    """

    method: Literal["gptq", "nearest"] = "gptq"
    effort: EffortName = "balanced"


class AllocationOptions(Record):
    """How bits are given out."""

    bits: float = 4.0
    candidates: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
    metric: str = "kl"
    gamma: float = 4.0
    fixed_bits: Annotated[int, Field(ge=1, le=8)] = 8
    time_limit: Annotated[float, Field(gt=0)] = 10.0
    activation_bits: int | Literal["mixed", "same"] = 8
    activation_budget: Annotated[float, Field(gt=0)] = 8.0
    activation_candidates: tuple[int, ...] = (4, 6, 8, 16)
    wide_price: Annotated[float, Field(gt=0, allow_inf_nan=True)] = 0.1


class UpdateOptions(Record):
    """The iterative update after the integer program."""

    rounds: Annotated[int, Field(ge=0)] = 8
    patience: Annotated[int, Field(ge=1)] = 3
    rule: Literal["strict", "count"] = "strict"
    measure: Literal["kl", "nll", "top1"] = "kl"
    inputs: Literal["quantized", "float"] = "quantized"


class OutputOptions(Record):
    """The form of the file and how it is checked."""

    packing: Literal["auto", "exact", "native", "container"] = "auto"
    target: str = "auto"
    threads: Annotated[int | None, Field(ge=1)] = None
    latency_threads: Annotated[int, Field(ge=1)] = 1
    latency_batch: Annotated[int, Field(ge=1)] = 1
    latency_runs: Annotated[int, Field(ge=1)] = 30
    baselines: tuple[str, ...] = ()
