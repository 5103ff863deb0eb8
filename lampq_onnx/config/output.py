"""Options of what comes out: the form of the file, and how it is checked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lampq_onnx.allocation.options import MetricName
from lampq_onnx.config.limits import MOST_BATCH, MOST_THREADS, MOST_TURNS
from lampq_onnx.config.readers import known_runtime, known_target
from lampq_onnx.disk.option import OUTPUT, Option
from lampq_onnx.disk.records import Record
from lampq_onnx.targets import BY_CPU

PackingName = Literal["auto", "exact", "native", "container"]


class OutputOptions(Record):
    """The form of the file, and how it is checked."""

    packing: Annotated[
        PackingName,
        Option(
            "How weights are stored: {packings}. `lampq-onnx list packings` explains them.", OUTPUT, names="packings"
        ),
    ] = "auto"
    target: Annotated[
        str,
        AfterValidator(known_target),
        Option("Where the file will run: {targets}. auto is this machine.", OUTPUT, level="basic", names="targets"),
    ] = "auto"
    runtime: Annotated[
        str,
        AfterValidator(known_runtime),
        Option(
            "What checks and times the file here: {runtimes}. auto: the runtime of the target. If --target is auto, it "
            "follows this option.",
            OUTPUT,
            level="basic",
            names="runtimes",
            shapes_file=False,
        ),
    ] = "auto"
    inference_precision: Annotated[
        Literal["auto", "f32", "bf16", "f16"],
        Option(
            "Arithmetic of the runtime beside its integer kernels. auto: its own default, which is bf16 in OpenVINO on "
            "CPUs that have it; onnxruntime has f32 alone.",
            OUTPUT,
            shapes_file=False,
        ),
    ] = "auto"
    batch: Annotated[
        int | None,
        Field(ge=1, le=MOST_BATCH),
        Option(
            "Number of images that the file takes at once. Default: any; 1 for onnxruntime-qnn, which needs a fixed "
            "number.",
            OUTPUT,
            example=1,
        ),
    ] = None
    attention: Annotated[
        Literal["parts", "operator"],
        Option(
            "Form of attention in the file. parts: products and softmax, which every runtime reads; operator: one "
            "Attention, which onnxruntime 1.23 and newer computes faster on x86 CPUs. The file then has opset 23, "
            "which the targets of OpenVINO, QNN and TensorRT do not read.",
            OUTPUT,
        ),
    ] = "parts"
    threads: Annotated[
        int | None,
        Field(ge=1, le=MOST_THREADS),
        Option(
            "Number of threads for the computation. Default: one for each core.", OUTPUT, shapes_file=False, example=1
        ),
    ] = None
    latency_threads: Annotated[
        int,
        Field(ge=1, le=MOST_THREADS),
        Option("Threads of onnxruntime when latency is measured.", OUTPUT, shapes_file=False),
    ] = 1
    latency_batch: Annotated[
        int,
        Field(ge=1, le=MOST_BATCH),
        Option("Images in a batch when latency is measured.", OUTPUT, shapes_file=False),
    ] = 1
    latency_runs: Annotated[
        int,
        Field(ge=1, le=MOST_TURNS),
        Option("How often latency is measured; the median is reported.", OUTPUT, shapes_file=False),
    ] = 30
    gate_agreement: Annotated[
        float,
        Field(ge=0, le=1),
        Option(
            "Fail (exit code 1) if the two models agree on fewer images than this fraction; 0: never. A larger "
            "--min-agreement is used instead.",
            OUTPUT,
            level="basic",
            shapes_file=False,
        ),
    ] = 0.5
    figures: Annotated[
        Literal["auto", "all", "few"],
        Option(
            "What the report shows beside accuracy, size and latency. all: Fisher traces, errors of layers, and where "
            "the time goes; few: nothing that takes a pass of its own; auto: few with --effort fast, else all but the "
            "traces, which it shows if the metric needs them.",
            OUTPUT,
            shapes_file=False,
        ),
    ] = "auto"
    baselines: Annotated[
        tuple[MetricName, ...],
        Option(
            "Also measure the plan of this metric at the same budget, e.g. uniform. Repeat the option for several.",
            OUTPUT,
            "baseline",
            names="metrics",
            shapes_file=False,
        ),
    ] = ()

    @property
    def target_name(self) -> str:
        """Name of the target; `auto` follows the runtime, where one is given."""
        return self.runtime if self.target == "auto" and self.runtime in BY_CPU else self.target
