"""The report of a run: all figures about its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from lampq_onnx.artifacts.channel_widths import WithWidths
from lampq_onnx.artifacts.details import Details
from lampq_onnx.artifacts.gates import GateLimits, Problem
from lampq_onnx.artifacts.granularity import GranularityTrial
from lampq_onnx.artifacts.not_done import NotDone
from lampq_onnx.artifacts.shown import Cell, Shown
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

    top1: float = Field(description="fraction of images whose label is the top output, or the score of the task")
    top5: float | None = Field(
        description="fraction of images whose label is among the top five; null: the task has none"
    )


class Accuracy(Record):
    """Results of the float model and the quantized file on the same validation images, both in onnxruntime."""

    metric: str = Field(
        default="top-1", description="what top1 measures, as a fraction; drop_points is how much it drops"
    )
    samples: int = Field(description="number of validation images")
    float_: TopK = Field(alias="float", serialization_alias="float", description="score of the float model")
    quantized: TopK = Field(description="score of the quantized file")
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

    float_bytes: int = Field(description="bytes of the float file")
    quantized_bytes: int = Field(description="bytes of the quantized file")


class Bits(Record):
    """Average widths over the layers in the budget."""

    weight_average: float = Field(description="average weight bits, weighted by the number of weights")
    weight_average_unweighted: float = Field(description="mean of the weight bits over the layers")
    weight_average_all: float = Field(
        description="average over every quantized layer, fixed ones included, weighted by the number of weights"
    )
    budget: float | None = Field(description="requested average weight bits; null: another budget decided")
    activation_average: float | None = Field(
        default=None, description="over the layers in the budget, weighted by input elements"
    )
    activation_average_unweighted: float | None = Field(
        default=None, description="mean of the input bits over the layers"
    )
    covers: tuple[str, ...] = Field(description="types of the layers in the budget")


class Latency(Record):
    """Alternating timing of both files in one process."""

    float_ms: float = Field(description="median milliseconds of the float file, per batch")
    quantized_ms: float = Field(description="median milliseconds of the quantized file, per batch")
    speedup: float = Field(description="median over rounds of float time / quantized time")
    speedup_quartiles: tuple[float, float] = Field(description="first and third quartile of the speedup over rounds")
    threads: int = Field(description="threads of the runtime")
    batch: int = Field(description="images in a batch")
    runs: int = Field(description="number of rounds")
    float_samples_ms: tuple[float, ...] = Field(description="milliseconds of the float file in every round")
    quantized_samples_ms: tuple[float, ...] = Field(description="milliseconds of the quantized file in every round")


class Fidelity(Record):
    """Whether the runtime computes what the QDQ graph and the simulation say."""

    layer_max: float | None = Field(
        description="largest relative error of a layer, kernel against reference QDQ, same input; null: not finite"
    )
    layer_worst: str | None = Field(description="name of that layer; null: no layer was compared")
    excess_error: float | None = Field(
        description="error to float, optimized over unoptimized file, minus 1; null: not finite"
    )
    simulation_excess: float | None = Field(
        description="error to float, simulation over unoptimized file, minus 1; null: not run"
    )
    samples: int = Field(description="number of images")


class LayerReport(WithWidths, Record):
    """Figures of one quantized layer of the file."""

    name: str = Field(description="name of the layer")
    type: str = Field(description="qkv, proj, fc1, fc2, patch_embed, head, linear or conv")
    weight_bits: int = Field(description="width of the weights; the widest one if output channels differ")
    activation_bits: int = Field(description="width of the input; 32 is float")
    storage: str = Field(description="how the integers lie in the file: exact, int2, int4, int8 or uint8")
    scheme: str = Field(description="grid of the levels: mid-tread (zero is one) or mid-rise")
    rounding: str | None = Field(
        default=None, description="techniques that were kept, e.g. gptq-0.01+bias; null if only the file is known"
    )
    parameters: int = Field(description="number of weights, without the bias")
    bytes: int = Field(description="bytes of the packed weights")
    trace: float | None = Field(default=None, description="Fisher trace; null: only the file is known")
    alpha: float | None = Field(default=None, description="factor of its type")
    omega: float | None = Field(default=None, description="alpha times trace")
    reconstruction_error: float | None = Field(
        default=None,
        description="|What Xhat - W X|^2 / |W X|^2 on calibration images, Xhat from the quantized model",
    )
    channel_bits: dict[int, int] | None = Field(
        default=None, description="width -> number of output channels; null: all have the same width"
    )


class Allocation(Record):
    """How the widths were found, and how good they are known to be."""

    metric: str = Field(description="metric that gave the costs")
    objective: float = Field(description="summed cost of the plan, in the unit of the metric")
    bound: float = Field(description="lower bound of the objective that the solution was checked against")
    gap: float = Field(description="(objective - bound) / objective")
    proven_optimal: bool = Field(description="whether no cheaper plan exists within the budgets")
    update_rounds: int = Field(description="swaps that the iterative update tried")
    update_kept: int = Field(description="swaps that it kept")
    update_score_before: float | None = Field(description="score before the update; null: no update")
    update_score_after: float | None = Field(description="score after it")
    cost: float | None = Field(
        default=None, description="measured KL costs of the plan's weights in nats, summed; null: not measured"
    )
    uniform_cost: float | None = Field(
        default=None, description="the same for uniform bits of the same average; null: not measured"
    )
    granularity: GranularityTrial | None = Field(
        default=None, description="what layers or groups of channels were chosen by; null: nothing was compared"
    )


class RoundingRecord(Record):
    """Which rounding techniques were tried and kept."""

    effort: Literal["fast", "balanced", "best", "max"] = Field(description="how much was tried")
    techniques: dict[str, int] = Field(description="technique -> layers it was kept for")
    held_out_kl: dict[str, float] = Field(description="stage -> KL to float on held-out calibration images after it")
    kept: dict[str, bool] = Field(description="stage -> whether its result was kept")


class Baseline(Record):
    """Another allocation with the same average bits, the same base quantizer and the same graph form."""

    weight_average: float = Field(description="average weight bits, weighted by the number of weights")
    accuracy: Accuracy = Field(description="its file against the float file")
    quantized_bytes: int = Field(description="size of its file in bytes")
    latency: Latency | None = Field(default=None, description="timing against the float file; null: not measured")


class Environment(Record):
    """The machine and the versions that the figures were measured with."""

    lampq_onnx: str = Field(description="version of this package")
    python: str = Field(description="version of Python")
    versions: dict[str, str] = Field(description="package -> version")
    cpu: str = Field(description="name of the processor")
    cpu_flags: tuple[str, ...] = Field(
        description="CPU features that decide which kernels run: avx2, avx512, vnni, amx, dot product"
    )
    cores: int = Field(description="number of cores that the run could use")
    target: str = Field(description="target that the file was made for")
    runtime: str = Field(
        default="", description="what ran the files, and its arithmetic beside integers; empty in older reports"
    )


class Report(Shown, Artifact):
    """All results of a run; report.json is written last, and its keys are stable."""

    format: Literal["lampq-onnx/report"] = "lampq-onnx/report"
    version: Literal[1] = 1
    model: str = Field(description="name of the model")
    written: str | None = Field(
        default=None, description="date and time (UTC, ISO 8601) of the measurements; null in older reports"
    )
    preprocessing: str = Field(description="preprocessing of the images, in one line")
    accuracy: Accuracy = Field(description="scores of both files on the validation images")
    size: Size = Field(description="bytes of both files")
    bits: Bits = Field(description="average widths")
    latency: Latency = Field(description="times of both files")
    fidelity: Fidelity = Field(description="whether the runtime computes what the file says")
    allocation: Allocation | None = Field(
        default=None, description="how the widths were found; null: only the file is known"
    )
    rounding: RoundingRecord | None = Field(
        default=None, description="how weights were rounded; null: only the file is known"
    )
    equalized: dict[str, str] = Field(
        default_factory=dict, description="layer -> how its input channels were equalized"
    )
    baselines: dict[str, Baseline] = Field(
        default_factory=dict, description="metric -> its plan at the same average bits"
    )
    passes: dict[str, int] = Field(default_factory=dict, description="converter pass -> number of changes")
    not_done: tuple[NotDone, ...] = Field(
        default=(),
        description="changes of the graph that importer and converter did not make, with the reason and the places",
    )
    seconds: dict[str, float] = Field(description="stage -> seconds that it took")
    environment: Environment = Field(description="machine and versions")
    layers: tuple[LayerReport, ...] = Field(description="quantized layers in the order of the graph")
    details: Details | None = Field(default=None, description="where error and time go; null: not measured")
    limits: GateLimits = Field(default=GateLimits(), description="the gates; `gates_of` applies them")
    problems: tuple[Problem, ...] = Field(default=(), description="what is wrong with the file on this machine")
    model_sha256: str | None = Field(
        default=None, description="SHA-256 of the quantized file and its external data; null in older reports"
    )
    notes: tuple[str, ...] = Field(default=(), description="what was not measured, or needs attention")

    def _line(self) -> str:
        accuracy, size = self.accuracy, self.size
        return (
            f"{self.model}: {accuracy.metric} {100 * accuracy.float_.top1:.2f} % -> "
            f"{100 * accuracy.quantized.top1:.2f} %, {size.float_bytes / 1e6:.3f} -> "
            f"{size.quantized_bytes / 1e6:.3f} MB, {self.latency.speedup:.2f}x of float's speed, "
            f"{len(self.layers)} layers"
        )

    def _card(self) -> Mapping[str, str]:
        accuracy, size = self.accuracy, self.size
        return {
            accuracy.metric: f"{100 * accuracy.quantized.top1:.2f} %",
            "drop, points": f"{accuracy.drop_points:.2f} ± {accuracy.standard_error_points:.2f}",
            "size": f"{size.quantized_bytes / 1e6:.3f} MB ({size.float_bytes / size.quantized_bytes:.1f}x smaller)",
            "speed": f"{self.latency.speedup:.2f}x",
            "agreement": accuracy.agreement_text,
            "KL": accuracy.kl_text,
            "average bits": f"{self.bits.weight_average:.2f}",
        }

    def _rows(self) -> Sequence[Mapping[str, Cell]]:
        return [
            {
                "layer": layer.name,
                "type": layer.type,
                "weight_bits": layer.weight_bits,
                "activation_bits": layer.activation_bits,
                "storage": layer.storage,
                "bytes": layer.bytes,
                "trace": layer.trace,
                "omega": layer.omega,
                "error": layer.reconstruction_error,
            }
            for layer in self.layers
        ]
