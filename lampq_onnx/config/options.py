"""All options of a run, as typed values.

The command line, recipes and the Python API are made from these fields: a new one appears in all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from lampq_onnx.allocation.options import DEFAULTS, Activation, Granularity, InputWidths, MetricName, WeightWidths
from lampq_onnx.artifacts.task import TaskName
from lampq_onnx.config.plain_values import plain_arguments
from lampq_onnx.config.readers import (
    MadeImages,
    all_positive,
    bops_text,
    calibration_of,
    calibration_text,
    known_device,
    known_model_name,
    known_runtime,
    known_target,
    latency_text,
    not_empty,
    numbers_of,
    possible_sides,
    sides_of,
    size_text,
)
from lampq_onnx.disk.option import BUDGETS, IMAGES, METHOD, MODEL, OUTPUT, RESEARCH, Option, SameAs
from lampq_onnx.disk.records import Record
from lampq_onnx.targets import BY_CPU

MOST_IMAGES, MOST_TURNS, MOST_THREADS, MOST_BATCH = 10**9, 10**6, 1024, 65536
"""Upper bounds of options: larger numbers are typing errors."""

DIGITS = "digits"
"""Name of the embedded model."""

DEFAULT_CALIBRATION_SIZE = 128

TRAINING_THREADS = 2
"""Default of `training_threads`: the same everywhere, so that files have the same bytes everywhere."""

EffortName = Literal["fast", "balanced", "best"]
PackingName = Literal["auto", "exact", "native", "container"]


Numbers = Annotated[tuple[float, ...] | None, BeforeValidator(numbers_of), AfterValidator(not_empty)]


class ModelOptions(Record):
    """Which model is quantized, and where its weights are."""

    name: Annotated[
        str,
        AfterValidator(known_model_name),
        Option(
            "A timm model name, a folder of a transformers model, a float .onnx file, or digits, the embedded model.",
            MODEL,
            "model",
        ),
    ]
    checkpoint: Annotated[
        Path | None,
        Option(
            "File with the model's weights: .safetensors, its .index.json, or a file that torch.save wrote. Only "
            "tensors are read from it.",
            MODEL,
            level="basic",
            shapes_file=False,
            example="model.safetensors",
        ),
    ] = None
    checkpoint_key: Annotated[
        str | None,
        Field(min_length=1),
        Option(
            "Part of the checkpoint to use if several fit the model, e.g. teacher or state_dict.",
            MODEL,
            shapes_file=False,
            example="state_dict",
        ),
    ] = None
    pretrained: Annotated[bool, Option("Let timm download the model's weights.", MODEL, level="basic")] = False
    model_args: Annotated[
        dict[str, object],
        BeforeValidator(plain_arguments),
        Option(
            "Argument for timm's constructor of the model, e.g. img_size=32,64 (height,width) or depths=[2,2,6,2]. "
            "Repeat the option for several.",
            MODEL,
            "model_arg",
            example={"img_size": [32, 64], "patch_size": 4},
        ),
    ] = Field(default_factory=dict)
    task: Annotated[
        Literal["auto"] | TaskName,
        Option(
            "What the outputs of the model mean: {tasks}. auto reads it from the outputs and labels.",
            MODEL,
            names="tasks",
        ),
    ] = "auto"
    outputs: Annotated[
        tuple[str, ...],
        Option(
            "Output of the model that counts, as NAME or NAME=TASK, e.g. last_hidden_state=features. Repeat the option "
            "for several, which are scored together. Default: the one that shows a task.",
            MODEL,
            example=["last_hidden_state=features"],
        ),
    ] = ()
    device: Annotated[
        str,
        AfterValidator(known_device),
        Option("Torch device that measures and rounds, e.g. cpu or cuda:0.", MODEL, level="basic"),
    ] = "cpu"


class ImageOptions(Record):
    """Images, and the preprocessing before the model.

    Attributes:
        calibration: a source of images, or how to make them from the model alone.
        calibration_size: None: as many as the effort can use.
    """

    calibration: Annotated[
        Path | MadeImages | None,
        BeforeValidator(calibration_of),
        PlainSerializer(calibration_text, return_type=str | None),
        Option(
            "Images to measure with; labels are not needed. A folder of images or of class folders, a folder with "
            "labels.csv, or an .npz file. synthetic or noise: made from the model, if there are no images.",
            IMAGES,
            level="basic",
            example="calibration",
        ),
    ] = None
    validation: Annotated[
        Path | None,
        Option(
            "Labelled images to check accuracy with: class folders, a folder with labels.csv, or an .npz file; for "
            "detection a COCO .json file.",
            IMAGES,
            level="basic",
            shapes_file=False,
            example="validation",
        ),
    ] = None
    calibration_size: Annotated[
        int | None,
        Field(ge=1, le=MOST_IMAGES),
        Option(
            "Number of calibration images. Default: 128; 1024 with --effort best; 64 synthetic ones.",
            IMAGES,
            example=128,
        ),
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**63), Option("Seed for choosing images and sampling labels.", IMAGES)] = 0
    input_size: Annotated[
        tuple[int, int] | None,
        BeforeValidator(sides_of),
        AfterValidator(possible_sides),
        Option(
            "Height x width of the model's input in pixels, e.g. 384x512, for models that take images of any size. "
            "Default: the model's own.",
            IMAGES,
            example=[384, 512],
        ),
    ] = None
    mean: Annotated[
        Numbers,
        Option(
            "Mean of each channel in preprocessing, of pixels from 0 to 1, e.g. 0.5,0.5,0.5. Default: the model's own.",
            IMAGES,
            example=[0.5, 0.5, 0.5],
        ),
    ] = None
    std: Annotated[
        Numbers,
        AfterValidator(all_positive),
        Option(
            "Standard deviation of each channel in preprocessing, e.g. 0.5,0.5,0.5. Default: the model's own.",
            IMAGES,
            example=[0.5, 0.5, 0.5],
        ),
    ] = None
    crop: Annotated[
        float | None,
        Field(gt=0, le=1),
        Option(
            "Fraction of the resized image that the center crop keeps, e.g. 0.9. Default: the model's own.",
            IMAGES,
            example=0.9,
        ),
    ] = None


class SyntheticOptions(Record):
    """How calibration images are made from the model alone."""

    size: Annotated[int, Field(ge=1)] = 64
    steps: Annotated[int, Field(ge=1)] = 40
    lr: Annotated[float, Field(gt=0)] = 0.2
    entropy_weight: Annotated[float, Field(ge=0)] = 4.0
    class_weight: Annotated[float, Field(ge=0)] = 1.0
    variation_weight: Annotated[float, Field(ge=0)] = 30.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class BudgetOptions(Record):
    """Limits of the file besides average bits; all that are given hold together."""

    max_size: Annotated[
        str | None,
        AfterValidator(size_text),
        Option("Maximum file size, e.g. 4MB.", BUDGETS, level="basic", example="4MB"),
    ] = None
    max_latency: Annotated[
        str | None,
        AfterValidator(latency_text),
        Option(
            "Maximum time of the file for a batch on this machine, e.g. 20ms. Needs --latency.",
            BUDGETS,
            level="basic",
            example="20ms",
        ),
    ] = None
    max_bops: Annotated[
        str | None,
        AfterValidator(bops_text),
        Option(
            "Maximum bit operations for one image: multiply-adds times weight bits times input bits, e.g. 60G.",
            BUDGETS,
            example="60G",
        ),
    ] = None
    min_agreement: Annotated[
        float | None,
        Field(gt=0, lt=1),
        Option(
            "Smallest predicted fraction of images with the same answer as the float model, e.g. 0.95. quantize also "
            "measures it (see --gate-agreement).",
            BUDGETS,
            level="basic",
            example=0.95,
        ),
    ] = None

    latency: Annotated[
        Path | None,
        Option(
            "Times of the layers for --max-latency: the file that `lampq-onnx probe` wrote.",
            BUDGETS,
            level="basic",
            example="latency.json",
        ),
    ] = None

    @property
    def given(self) -> bool:
        """Whether there is any limit."""
        return any(v is not None for v in (self.max_size, self.max_latency, self.max_bops, self.min_agreement))


class AnalysisOptions(Record):
    """How sensitivities are measured.

    Attributes:
        activation_bits: width of the inputs; mixed or same: costs of several widths are measured.
        activation_candidates: those widths, for mixed.
        weight_bits: average width that is expected; decides how far inputs are equalized.
        equalize: whether they are.
        effort: how much is measured.
        granularity: "layer" leaves out the shares of output channels.
    """

    activation_bits: Annotated[Activation, SameAs("allocation", "activation_bits")] = DEFAULTS.activation_bits
    activation_candidates: Annotated[InputWidths, SameAs("allocation", "activation_candidates")] = (
        DEFAULTS.activation_candidates
    )
    weight_bits: Annotated[float, SameAs("allocation", "bits")] = DEFAULTS.bits
    equalize: Annotated[
        bool, Option("Scale input channels where that makes rounding easier; the float model computes the same.")
    ] = True
    effort: Annotated[
        EffortName,
        Option(
            "{efforts}: how long costs are measured and rounding is refined; minutes to half an hour for a small ViT.",
            level="basic",
            names="efforts",
        ),
    ] = "balanced"
    labels: Annotated[
        Literal["sampled", "given"],
        Option(
            "Labels for the Fisher information: sampled from the model's answers, or given with the images.", RESEARCH
        ),
    ] = "sampled"
    alpha_bits: Annotated[
        int | None,
        Field(ge=1, le=8),
        Option(
            "Bit-width at which LampQ's factor for each layer type is measured (beta in the paper). Default: the "
            "smallest candidate.",
            RESEARCH,
            example=2,
        ),
    ] = None
    alpha_samples: Annotated[
        int,
        Field(ge=1, le=MOST_TURNS),
        Option("Layers of each type that LampQ's factor is measured on (mu in the paper).", RESEARCH),
    ] = 3
    alpha_measure: Annotated[
        Literal["kl", "nll", "top1"],
        Option(
            "What LampQ's factor counts: kl (change of the outputs), nll (loss on the labels) or top1 (accuracy).",
            RESEARCH,
        ),
    ] = "kl"
    candidates: Annotated[WeightWidths, SameAs("allocation", "candidates")] = DEFAULTS.candidates
    granularity: Annotated[Granularity, SameAs("allocation", "granularity")] = DEFAULTS.granularity
    simulate: Annotated[
        bool,
        Option(
            "Also simulate a few plans and keep the results, which allocate --min-agreement predicts from.",
            METHOD,
            "simulate_plans",
        ),
    ] = False


class RoundingOptions(Record):
    """How weights are rounded.

    Attributes:
        method: nearest leaves out everything else.
        effort: what is tried beyond GPTQ.
    """

    method: Annotated[
        Literal["gptq", "nearest"],
        Option(
            "gptq: GPTQ and what --effort adds to it; nearest: rounding to nearest and nothing else.",
            METHOD,
            "rounding",
        ),
    ] = "gptq"
    effort: Annotated[EffortName, SameAs("analysis", "effort")] = "balanced"
    training_threads: Annotated[
        int,
        Field(ge=1, le=MOST_THREADS),
        Option(
            "Threads for the training of --effort best, whatever --threads says. The bytes of the file depend on it, "
            "because the order of its sums does.",
            RESEARCH,
        ),
    ] = TRAINING_THREADS


class UpdateOptions(Record):
    """How measured swaps of widths refine the plan after the integer program."""

    rounds: Annotated[
        int,
        Field(ge=0, le=MOST_TURNS),
        Option(
            "Swaps of widths between layers that are tried and measured after the integer program; 0: none.", RESEARCH
        ),
    ] = 8
    patience: Annotated[
        int,
        Field(ge=1, le=MOST_TURNS),
        Option("Swaps in a row without gain before trying stops; the paper uses 1.", RESEARCH),
    ] = 3
    rule: Annotated[
        Literal["strict", "count"],
        Option(
            "strict: swaps keep the budget; count: as many bits up as down, whatever the layers' sizes (the paper).",
            RESEARCH,
            "update_rule",
        ),
    ] = "strict"
    measure: Annotated[
        Literal["kl", "nll", "top1"],
        Option(
            "What decides on a swap: kl (change of the outputs), nll (loss on the labels) or top1 (accuracy).",
            RESEARCH,
            "update_measure",
        ),
    ] = "kl"
    inputs: Annotated[
        Literal["quantized", "float"],
        Option(
            "Inputs of the layers while swaps are measured: quantized, as in the file, or float.",
            RESEARCH,
            "update_inputs",
        ),
    ] = "quantized"


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
