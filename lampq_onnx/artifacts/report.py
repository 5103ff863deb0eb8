"""The report of a run: all figures about its output."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from lampq_onnx.artifacts.details import Details
from lampq_onnx.artifacts.gates import GateLimits, Problem
from lampq_onnx.artifacts.not_done import NotDone
from lampq_onnx.disk.records import Artifact, Record
from lampq_onnx.errors import ScoreError

ZERO_NATS = 1e-15
"""A KL divergence up to this counts as zero: the rest is rounding of float64."""

SMALL_ERROR = 0.01
"""Relative error of the outputs above which a report cannot say that nothing changed."""


class TopK(Record):
    """Fractions of images whose label is the top output, or among the top five.

    For tasks without one label per image, `top1` is the score that `Accuracy.metric` names, and there is no `top5`.
    """

    top1: float
    top5: float | None


class Accuracy(Record):
    """Results of the float model and the quantized file on the same validation images, both in onnxruntime."""

    metric: str = Field(
        default="top-1", description="what top1 measures, as a fraction; drop_points is how much it drops"
    )
    samples: int
    float_: TopK = Field(alias="float", serialization_alias="float")
    quantized: TopK
    drop_points: float = Field(description="100 * (float.top1 - quantized.top1)")
    standard_error_points: float = Field(
        description="standard error of the drop, from paired per-image outcomes; segmentation: of the pixel agreement"
    )
    agreement: float = Field(description="fraction of images (pixels, detections) with the same answer")
    agreement_counts: str = Field(default="images with the same first answer", description="what agreement counts")
    logit_sqnr_db: float | None = Field(description="10 log10(|y|^2 / |y - y_q|^2); null when the error is zero")
    kl: float = Field(description="mean KL(float || quantized) in nats")
    broken: int = Field(
        default=0,
        description="images for which the quantized file gives NaN or infinity; these outputs count as zeros, "
        "never as right and never as unchanged",
    )
    scores: dict[str, tuple[float | None, float]] = Field(
        default_factory=dict, description="further scores: name -> (float, quantized); null if float is the reference"
    )

    @property
    def relative_error(self) -> float:
        """Relative error of the outputs, |y - y_q| / |y|."""
        return 0.0 if self.logit_sqnr_db is None else float(10 ** (-self.logit_sqnr_db / 20))

    @property
    def agreement_text(self) -> str:
        """The agreement as text; never 100 % if outputs changed by more than `SMALL_ERROR`."""
        if self.agreement == 1 and self.relative_error > SMALL_ERROR:
            return f"all of {self.samples} images (outputs {100 * self.relative_error:.1f} % off)"
        # Rounded down: 100.00 % means that nothing differs.
        return f"{int(1e4 * self.agreement + 1e-9) / 100:.2f} %"

    @property
    def kl_text(self) -> str:
        """The KL divergence as text; "0" only if it is zero."""
        return "0" if self.kl <= ZERO_NATS else f"{self.kl:.3g}"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kl <= ZERO_NATS and self.relative_error > SMALL_ERROR:
            raise ScoreError(
                f"the outputs of the two files differ by {100 * self.relative_error:.1f} %, but the KL divergence that "
                f"goes with {self.metric} is 0: the task does not fit the model",
                hint="quantize the model with another task, see --task",
            )
        return self


class Size(Record):
    """Bytes of both files on disk, external data included."""

    float_bytes: int
    quantized_bytes: int


class Bits(Record):
    """Average widths over the layers in the budget."""

    weight_average: float
    weight_average_unweighted: float
    weight_average_all: float = Field(
        description="average over every quantized layer, fixed ones included, weighted by the number of weights"
    )
    budget: float | None
    activation_average: float | None = Field(
        default=None, description="over the layers in the budget, weighted by input elements"
    )
    activation_average_unweighted: float | None = None
    covers: tuple[str, ...] = Field(description="types of the layers in the budget")


class Latency(Record):
    """Alternating timing of both files in one process."""

    float_ms: float
    quantized_ms: float
    speedup: float = Field(description="median over rounds of float time / quantized time")
    speedup_quartiles: tuple[float, float]
    threads: int
    batch: int
    runs: int
    float_samples_ms: tuple[float, ...]
    quantized_samples_ms: tuple[float, ...]


class Fidelity(Record):
    """Whether onnxruntime computes what the QDQ graph and the simulation say."""

    layer_max: float | None = Field(
        description="largest relative error of a layer, kernel against reference QDQ, same input; null: not finite"
    )
    layer_worst: str | None
    excess_error: float | None = Field(
        description="error to float, optimized over unoptimized file, minus 1; null: not finite"
    )
    simulation_excess: float | None = Field(
        description="error to float, simulation over unoptimized file, minus 1; null: not run"
    )
    samples: int


class LayerReport(Record):
    """Figures of one quantized layer of the file."""

    name: str
    type: str
    weight_bits: int
    activation_bits: int
    storage: str
    scheme: str
    rounding: str | None = Field(
        default=None, description="techniques that were kept, e.g. gptq-0.01+bias; null if only the file is known"
    )
    parameters: int
    bytes: int = Field(description="bytes of the packed weights")
    trace: float | None = None
    alpha: float | None = None
    omega: float | None = None
    reconstruction_error: float | None = Field(
        default=None,
        description="|What Xhat - W X|^2 / |W X|^2 on calibration images, Xhat from the quantized model",
    )


class Allocation(Record):
    """How the widths were found, and how good they are known to be."""

    metric: str
    objective: float
    bound: float = Field(description="lower bound of the objective that the solution was checked against")
    gap: float = Field(description="(objective - bound) / objective")
    proven_optimal: bool
    update_rounds: int
    update_kept: int
    update_score_before: float | None
    update_score_after: float | None


class RoundingRecord(Record):
    """Which rounding techniques were tried and kept."""

    effort: Literal["fast", "balanced", "best"]
    techniques: dict[str, int] = Field(description="technique -> layers it was kept for")
    held_out_kl: dict[str, float] = Field(description="stage -> KL to float on held-out calibration images after it")
    kept: dict[str, bool] = Field(description="stage -> whether its result was kept")


class Baseline(Record):
    """Another allocation with the same average bits, the same base quantizer and the same graph form."""

    weight_average: float
    accuracy: Accuracy
    quantized_bytes: int
    latency: Latency | None = Field(default=None, description="timing against the float file; null: not measured")


class Environment(Record):
    """The machine and the versions that the figures were measured with."""

    lampq_onnx: str
    python: str
    versions: dict[str, str]
    cpu: str
    cpu_flags: tuple[str, ...] = Field(
        description="CPU features that decide which kernels run: avx2, avx512, vnni, amx, dot product"
    )
    cores: int
    target: str


class Report(Artifact):
    """All results of a run; report.json is written last, and its keys are stable."""

    format: Literal["lampq-onnx/report"] = "lampq-onnx/report"
    version: Literal[1] = 1
    model: str
    preprocessing: str = Field(description="preprocessing of the images, in one line")
    accuracy: Accuracy
    size: Size
    bits: Bits
    latency: Latency
    fidelity: Fidelity
    allocation: Allocation | None = None
    rounding: RoundingRecord | None = None
    equalized: dict[str, str] = Field(
        default_factory=dict, description="layer -> how its input channels were equalized"
    )
    baselines: dict[str, Baseline] = Field(default_factory=dict)
    passes: dict[str, int] = Field(default_factory=dict, description="converter pass -> number of changes")
    not_done: tuple[NotDone, ...] = Field(
        default=(), description="changes of the graph that the converter did not make, with the reason and the places"
    )
    seconds: dict[str, float]
    environment: Environment
    layers: tuple[LayerReport, ...]
    details: Details | None = Field(default=None, description="where error and time go; null: not measured")
    limits: GateLimits = Field(default=GateLimits(), description="the gates; `gates_of` applies them")
    problems: tuple[Problem, ...] = Field(default=(), description="what is wrong with the file on this machine")
    model_sha256: str | None = Field(
        default=None, description="SHA-256 of the quantized file and its external data; null in older reports"
    )
    notes: tuple[str, ...] = Field(default=(), description="what was not measured, or needs attention")
