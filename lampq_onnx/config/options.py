"""Everything a run can be told, as typed values.

The command line, recipes and the Python API are made from these fields: a new one appears in all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from lampq_onnx.allocation.options import DEFAULTS, Activation, InputWidths, MetricName, WeightWidths
from lampq_onnx.artifacts.task import TASK_NAMES, TaskName
from lampq_onnx.config.plain_values import plain_arguments
from lampq_onnx.config.readers import (
    MadeImages,
    all_positive,
    bops_text,
    calibration_of,
    calibration_text,
    known_device,
    known_model_name,
    known_target,
    latency_text,
    not_empty,
    numbers_of,
    size_text,
)
from lampq_onnx.disk.option import BUDGETS, IMAGES, METHOD, MODEL, OPEN, OUTPUT, Option, SameAs
from lampq_onnx.disk.records import Record

MOST_IMAGES, MOST_TURNS, MOST_THREADS, MOST_BATCH = 10**9, 10**6, 1024, 65536
"""Numbers above these are slips of the finger."""

DIGITS = "digits"
"""Name of the embedded default."""

DEFAULT_CALIBRATION_SIZE = 128

TRAINING_THREADS = 2
"""For the same bytes everywhere, see `frontend.threads`; on many cores, more are faster."""

EffortName = Literal["fast", "balanced", "best"]
PackingName = Literal["auto", "exact", "native", "container"]


Numbers = Annotated[tuple[float, ...] | None, BeforeValidator(numbers_of), AfterValidator(not_empty)]


class ModelOptions(Record):
    """Which model, and where its weights are."""

    name: Annotated[
        str,
        AfterValidator(known_model_name),
        Option(
            "A timm model name, a folder of transformers, a float .onnx, or digits, the embedded default.",
            MODEL,
            "model",
        ),
    ]
    checkpoint: Annotated[
        Path | None,
        Option(
            "Weights: a safetensors file or its .index.json, or a file of torch.save, of which only tensors are read.",
            MODEL,
            shapes_file=False,
            example="model.safetensors",
        ),
    ] = None
    checkpoint_key: Annotated[
        str | None,
        Field(min_length=1),
        Option(
            "The part of the checkpoint that is meant, where several fit, e.g. teacher or state_dict.",
            MODEL,
            shapes_file=False,
            example="state_dict",
        ),
    ] = None
    pretrained: Annotated[bool, Option("Let timm download its weights.", MODEL)] = False
    model_args: Annotated[
        dict[str, Any],
        BeforeValidator(plain_arguments),
        Option(
            "Argument for timm's constructor, e.g. img_size=32,64 (height,width) or depths=[2,2,6,2]; repeatable.",
            MODEL,
            "model_arg",
            example={"img_size": [32, 64], "patch_size": 4},
        ),
    ] = Field(default_factory=dict)
    task: Annotated[
        Literal["auto"] | TaskName,
        Option(
            f"{', '.join(TASK_NAMES)}; auto: what the outputs and labels tell.",
            MODEL,
        ),
    ] = "auto"
    device: Annotated[
        str, AfterValidator(known_device), Option("Torch device of the front end, e.g. cpu or cuda:0.", MODEL)
    ] = "cpu"


class ImageOptions(Record):
    """Images and what they go through.

    Attributes:
        calibration: a source of images, or how to make them from the model alone.
        calibration_size: None: as many as the effort can use.
    """

    calibration: Annotated[
        Path | MadeImages | None,
        BeforeValidator(calibration_of),
        PlainSerializer(calibration_text, return_type=str | None),
        Option(
            "Folder of class folders, folder with labels.csv, flat folder, or .npz; or synthetic or noise "
            "(images made from the model alone).",
            IMAGES,
            example="calibration",
        ),
    ] = None
    validation: Annotated[
        Path | None,
        Option(
            "Labelled images: class folders, labels.csv or .npz; boxes: COCO .json.",
            IMAGES,
            shapes_file=False,
            example="validation",
        ),
    ] = None
    calibration_size: Annotated[
        int | None,
        Field(ge=1, le=MOST_IMAGES),
        Option("Calibration images; default: 128, 1024 for --effort best, 64 synthetic ones.", IMAGES, example=128),
    ] = None
    seed: Annotated[int, Field(ge=0, lt=2**63), Option("Of image choice and sampled labels.", IMAGES)] = 0
    mean: Annotated[
        Numbers,
        Option("Mean of each channel, instead of the model's, e.g. 0.5,0.5,0.5.", IMAGES, example=[0.5, 0.5, 0.5]),
    ] = None
    std: Annotated[
        Numbers,
        AfterValidator(all_positive),
        Option("Standard deviation of each channel, instead of the model's.", IMAGES, example=[0.5, 0.5, 0.5]),
    ] = None
    crop: Annotated[
        float | None,
        Field(gt=0, le=1),
        Option("Share of the resized image that the center crop keeps, instead of the model's.", IMAGES, example=0.9),
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
    """What the file must not exceed, beside average bits; any of them together."""

    max_size: Annotated[
        str | None, AfterValidator(size_text), Option("Of the file, e.g. 4MB.", BUDGETS, example="4MB")
    ] = None
    max_latency: Annotated[
        str | None,
        AfterValidator(latency_text),
        Option("Of the file on this machine, e.g. 20ms (see probe).", BUDGETS, example="20ms"),
    ] = None
    max_bops: Annotated[
        str | None,
        AfterValidator(bops_text),
        Option("Multiply-adds times weight bits times input bits, e.g. 60G.", BUDGETS, example="60G"),
    ] = None
    min_agreement: Annotated[
        float | None,
        Field(gt=0, lt=1),
        Option(
            "Budget: smallest fraction of images with float's answer that simulated plans predict. quantize also "
            "measures it (see --gate-agreement).",
            BUDGETS,
            example=0.95,
        ),
    ] = None

    latency: Annotated[
        Path | None, Option("latency.json of probe, for --max-latency.", BUDGETS, example="latency.json")
    ] = None

    @property
    def given(self) -> bool:
        """Whether there is any."""
        return any(v is not None for v in (self.max_size, self.max_latency, self.max_bops, self.min_agreement))


class AnalysisOptions(Record):
    """How sensitivities are measured.

    Attributes:
        activation_bits: width of the inputs; mixed or same: costs of several widths are measured.
        activation_candidates: those widths, for mixed.
        weight_bits: average width that is expected; decides how far inputs are equalized.
        equalize: whether they are.
        effort: how much is measured.
    """

    activation_bits: Annotated[Activation, SameAs("allocation", "activation_bits")] = DEFAULTS.activation_bits
    activation_candidates: Annotated[InputWidths, SameAs("allocation", "activation_candidates")] = (
        DEFAULTS.activation_candidates
    )
    weight_bits: Annotated[float, SameAs("allocation", "bits")] = DEFAULTS.bits
    equalize: Annotated[bool, Option("Scale input channels where that helps.")] = True
    effort: Annotated[
        EffortName,
        Option("fast, balanced or best: how long costs are measured and rounding is refined (README has the times)."),
    ] = "balanced"
    labels: Annotated[Literal["sampled", "given"], Option("Fisher labels: sampled from the model, or given.", OPEN)] = (
        "sampled"
    )
    alpha_bits: Annotated[
        int | None, Field(ge=1, le=8), Option("beta; default: the smallest candidate.", OPEN, example=2)
    ] = None
    alpha_samples: Annotated[int, Field(ge=1, le=MOST_TURNS), Option("mu: layers measured per type.", OPEN)] = 3
    alpha_measure: Annotated[Literal["kl", "nll", "top1"], Option("kl, nll or top1.", OPEN)] = "kl"
    candidates: Annotated[WeightWidths, SameAs("allocation", "candidates")] = DEFAULTS.candidates
    simulate: Annotated[
        bool, Option("Simulate a few plans, from which allocate --min-agreement predicts.", METHOD, "simulate_plans")
    ] = False


class RoundingOptions(Record):
    """The base quantizer's rounding.

    Attributes:
        method: nearest leaves out everything else.
        effort: what is tried beyond GPTQ.
    """

    method: Annotated[
        Literal["gptq", "nearest"],
        Option("gptq (and what --effort adds), or nearest and nothing else.", METHOD, "rounding"),
    ] = "gptq"
    effort: Annotated[EffortName, SameAs("analysis", "effort")] = "balanced"
    training_threads: Annotated[
        int,
        Field(ge=1, le=MOST_THREADS),
        Option("Of --effort best's training, whatever --threads says: its sums, and so the bytes, depend on it.", OPEN),
    ] = TRAINING_THREADS


class UpdateOptions(Record):
    """The iterative update after the integer program."""

    rounds: Annotated[int, Field(ge=0, le=MOST_TURNS), Option("Scored swaps of the iterative update; 0: none.")] = 8
    patience: Annotated[
        int, Field(ge=1, le=MOST_TURNS), Option("Undone swaps in a row before the update stops; the paper: 1.", OPEN)
    ] = 3
    rule: Annotated[
        Literal["strict", "count"],
        Option("strict keeps the budget; count is the paper's letter.", OPEN, "update_rule"),
    ] = "strict"
    measure: Annotated[Literal["kl", "nll", "top1"], Option("kl, nll or top1.", OPEN, "update_measure")] = "kl"
    inputs: Annotated[
        Literal["quantized", "float"], Option("Errors on quantized or float inputs.", OPEN, "update_inputs")
    ] = "quantized"


class OutputOptions(Record):
    """The form of the file and how it is checked."""

    packing: Annotated[PackingName, Option("auto, exact, native or container.", OUTPUT)] = "auto"
    target: Annotated[
        str,
        AfterValidator(known_target),
        Option("auto (this machine), onnxruntime-x86-avx2, -x86-vnni, -arm64, -qnn, tensorrt, openvino.", OUTPUT),
    ] = "auto"
    threads: Annotated[
        int | None,
        Field(ge=1, le=MOST_THREADS),
        Option("Default: all cores.", OUTPUT, shapes_file=False, example=1),
    ] = None
    latency_threads: Annotated[
        int, Field(ge=1, le=MOST_THREADS), Option("Threads of the timed sessions.", OUTPUT, shapes_file=False)
    ] = 1
    latency_batch: Annotated[
        int, Field(ge=1, le=MOST_BATCH), Option("Images in a timed batch.", OUTPUT, shapes_file=False)
    ] = 1
    latency_runs: Annotated[int, Field(ge=1, le=MOST_TURNS), Option("Timed rounds.", OUTPUT, shapes_file=False)] = 30
    gate_agreement: Annotated[
        float,
        Field(ge=0, le=1),
        Option(
            "Gate: fail if the two models are measured to agree on fewer images than this fraction; 0: no gate. "
            "A larger --min-agreement is used instead.",
            OUTPUT,
            shapes_file=False,
        ),
    ] = 0.5
    baselines: Annotated[
        tuple[MetricName, ...],
        Option("Also measure another metric's plan, e.g. uniform; repeatable.", OUTPUT, "baseline", shapes_file=False),
    ] = ()
