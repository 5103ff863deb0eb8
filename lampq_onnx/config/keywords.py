"""Keyword arguments of the Python API, by function.

This file is made from the fields of the classes in `lampq_onnx.config.sections` by tools/keywords.py: change those,
which also say what each option does. Options that a function names in its own signature are left out. None stands for
"not given".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal, TypedDict


class _Model(TypedDict, total=False):
    """Which model is quantized, and where its weights are."""

    checkpoint: str | Path | None
    checkpoint_key: str | None
    pretrained: bool | None
    model_args: Mapping[str, object] | None
    task: (
        Literal["auto"]
        | Literal[
            "classification",
            "binary",
            "multi-label",
            "regression",
            "embedding",
            "segmentation",
            "binary-segmentation",
            "dense-regression",
            "detection",
            "features",
            "sequence",
        ]
        | None
    )
    outputs: Sequence[str] | None
    device: str | None


class _Images(TypedDict, total=False):
    """Images, and the preprocessing before the model."""

    calibration_size: int | None
    seed: int | None
    input_size: str | Sequence[int] | None
    mean: str | Sequence[float] | None
    std: str | Sequence[float] | None
    crop: float | None


class _Allocation(TypedDict, total=False):
    """How bits are given out."""

    candidates: str | Sequence[int] | None
    metric: str | None
    gamma: float | None
    granularity: Literal["auto", "layer", "group"] | None
    fixed_bits: int | None
    time_limit: float | None
    activation_bits: int | Literal["mixed", "same"] | None
    activation_budget: float | None
    activation_candidates: str | Sequence[int] | None
    wide_price: float | None


class _Budgets(TypedDict, total=False):
    """Limits of the file besides average bits; all that are given hold together."""

    max_size: str | None
    max_latency: str | None
    max_bops: str | None
    min_agreement: float | None


class _Analysis(TypedDict, total=False):
    """How sensitivities are measured."""

    equalize: bool | None
    effort: Literal["fast", "balanced", "best", "max"] | None
    labels: Literal["sampled", "given"] | None
    alpha_bits: int | None
    alpha_samples: int | None
    alpha_measure: Literal["kl", "nll", "top1"] | None
    simulate_plans: bool | None


class _Rounding(TypedDict, total=False):
    """How weights are rounded."""

    rounding: Literal["gptq", "nearest"] | None
    training_threads: int | None


class _Update(TypedDict, total=False):
    """How measured swaps of widths refine the plan after the integer program."""

    rounds: int | None
    patience: int | None
    update_rule: Literal["strict", "count"] | None
    update_measure: Literal["kl", "nll", "top1"] | None
    update_inputs: Literal["quantized", "float"] | None


class _Output(TypedDict, total=False):
    """The form of the file, and how it is checked."""

    packing: Literal["auto", "exact", "native", "container"] | None
    target: str | None
    runtime: str | None
    inference_precision: Literal["auto", "f32", "bf16", "f16"] | None
    batch: int | None
    attention: Literal["parts", "operator"] | None
    threads: int | None
    latency_threads: int | None
    latency_batch: int | None
    latency_runs: int | None
    gate_agreement: float | None
    figures: Literal["auto", "all", "few"] | None


class QuantizeKeywords(_Model, _Images, _Allocation, _Budgets, _Analysis, _Rounding, _Update, _Output, total=False):
    """Further keyword arguments of `lampq_onnx.quantize`."""


class SweepKeywords(_Model, _Images, _Allocation, _Analysis, _Rounding, _Update, _Output, total=False):
    """Further keyword arguments of `lampq_onnx.sweep`."""


class AnalyzeKeywords(_Model, _Images, _Analysis, total=False):
    """Further keyword arguments of `lampq_onnx.analyze`."""

    rounding: Literal["gptq", "nearest"] | None
    candidates: str | Sequence[int] | None
    granularity: Literal["auto", "layer", "group"] | None
    activation_bits: int | Literal["mixed", "same"] | None
    activation_candidates: str | Sequence[int] | None
    threads: int | None


class AllocateKeywords(_Allocation, _Budgets, total=False):
    """Further keyword arguments of `lampq_onnx.allocate`."""

    packing: Literal["auto", "exact", "native", "container"] | None


class ConvertKeywords(TypedDict, total=False):
    """Further keyword arguments of `lampq_onnx.convert`."""

    packing: Literal["auto", "exact", "native", "container"] | None
    target: str | None
    batch: int | None
    attention: Literal["parts", "operator"] | None
    threads: int | None
    calibration_size: int | None
    seed: int | None
    input_size: str | Sequence[int] | None
    mean: str | Sequence[float] | None
    std: str | Sequence[float] | None
    crop: float | None


class ValidateKeywords(TypedDict, total=False):
    """Further keyword arguments of `lampq_onnx.validate`."""

    mean: str | Sequence[float] | None
    std: str | Sequence[float] | None
    crop: float | None
    threads: int | None
    latency_threads: int | None
    latency_batch: int | None
    latency_runs: int | None
    runtime: str | None
    inference_precision: Literal["auto", "f32", "bf16", "f16"] | None


class DoctorKeywords(_Model, total=False):
    """Further keyword arguments of `lampq_onnx.doctor`."""

    input_size: str | Sequence[int] | None
    mean: str | Sequence[float] | None
    std: str | Sequence[float] | None
    crop: float | None


TAKEN: Final = {
    "quantize": QuantizeKeywords.__optional_keys__,
    "sweep": SweepKeywords.__optional_keys__,
    "analyze": AnalyzeKeywords.__optional_keys__,
    "allocate": AllocateKeywords.__optional_keys__,
    "convert": ConvertKeywords.__optional_keys__,
    "validate": ValidateKeywords.__optional_keys__,
    "doctor": DoctorKeywords.__optional_keys__,
}
"""Function -> names of its further keyword arguments."""
