"""Options that several commands share, each written once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from lampq_onnx.errors import UsageError
from lampq_onnx.options import AnalysisOptions, EffortName, ModelOptions, RoundingOptions

EFFORTS: tuple[EffortName, ...] = get_args(EffortName)

IMAGES = "Images"
METHOD = "Method"
OUTPUT = "Output"
OPEN = "What the paper leaves open (docs/method.md)"

Model = Annotated[
    str,
    typer.Argument(help="A timm model name, or [bold]digits[/], the embedded default that needs no other option."),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Weights: .safetensors, or .pth read with weights_only.", show_default=False),
]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Let timm download its weights.")]
ModelArg = Annotated[
    list[str] | None,
    typer.Option(help="Argument for timm's constructor, e.g. img_size=32; repeatable.", show_default=False),
]
Device = Annotated[str, typer.Option(help="Torch device of the front end.")]
Calibration = Annotated[
    str | None,
    typer.Option(
        help="Folder of class folders, folder with labels.csv, flat folder, or .npz; or synthetic or noise "
        "(images made from the model alone).",
        rich_help_panel=IMAGES,
        show_default=False,
    ),
]
Validation = Annotated[
    Path | None,
    typer.Option(
        help="Labelled images: class folders, labels.csv or .npz.", rich_help_panel=IMAGES, show_default=False
    ),
]
CalibrationSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Calibration images; default: 128, 512 for --effort best, 64 synthetic ones.",
        rich_help_panel=IMAGES,
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Of image choice and sampled labels.", rich_help_panel=IMAGES)]
Mean = Annotated[
    str | None,
    typer.Option(help="Overrides timm's, e.g. 0.5,0.5,0.5.", rich_help_panel=IMAGES, show_default=False),
]
Std = Annotated[str | None, typer.Option(help="Overrides timm's.", rich_help_panel=IMAGES, show_default=False)]
Crop = Annotated[
    float | None, typer.Option(help="Overrides timm's crop_pct.", rich_help_panel=IMAGES, show_default=False)
]
Bits = Annotated[float, typer.Option(help="Average weight bits of the budget.", rich_help_panel=METHOD)]
ActivationBits = Annotated[
    str,
    typer.Option(
        help="Input bits of every layer, 2..8; mixed: each its own; same: those of its weights.", rich_help_panel=METHOD
    ),
]
ActivationBudget = Annotated[
    float, typer.Option(help="Average input bits, for --activation-bits mixed.", rich_help_panel=METHOD)
]
ActivationCandidates = Annotated[
    str, typer.Option(help="Input widths, for --activation-bits mixed.", rich_help_panel=METHOD)
]
WidePrice = Annotated[
    float,
    typer.Option(
        help="Nats that 16-bit inputs must save for a whole model of them, where 8 bits are asked for; inf: never.",
        rich_help_panel=METHOD,
    ),
]
Candidates = Annotated[str, typer.Option(help="Weight widths, e.g. 2-8 or 2,4,8.", rich_help_panel=METHOD)]
Metric = Annotated[
    str, typer.Option(help="lampq, fisher, nuclear-norm, uniform, kl or omega-error.", rich_help_panel=METHOD)
]
Gamma = Annotated[float, typer.Option(help="Error falls by this factor a bit.", rich_help_panel=METHOD)]
TimeLimit = Annotated[float, typer.Option(min=0.01, help="Seconds for the integer program.", rich_help_panel=METHOD)]
Rounds = Annotated[
    int, typer.Option(min=0, help="Scored swaps of the iterative update; 0: none.", rich_help_panel=METHOD)
]
Labels = Annotated[str, typer.Option(help="Fisher labels: sampled from the model, or given.", rich_help_panel=OPEN)]
AlphaBits = Annotated[
    int | None,
    typer.Option(min=1, max=8, help="beta; default: the smallest candidate.", rich_help_panel=OPEN, show_default=False),
]
AlphaSamples = Annotated[int, typer.Option(min=1, help="mu: layers measured per type.", rich_help_panel=OPEN)]
AlphaMeasure = Annotated[str, typer.Option(help="kl, nll or top1.", rich_help_panel=OPEN)]
Patience = Annotated[
    int,
    typer.Option(min=1, help="Undone swaps in a row before the update stops; the paper: 1.", rich_help_panel=OPEN),
]
UpdateRule = Annotated[
    str, typer.Option(help="strict keeps the budget; count is the paper's letter.", rich_help_panel=OPEN)
]
UpdateMeasure = Annotated[str, typer.Option(help="kl, nll or top1.", rich_help_panel=OPEN)]
UpdateInputs = Annotated[str, typer.Option(help="Errors on quantized or float inputs.", rich_help_panel=OPEN)]
Effort = Annotated[
    str,
    typer.Option(
        help="fast, balanced or best: how long costs are measured and rounding is refined (README has the times).",
        rich_help_panel=METHOD,
    ),
]
Equalize = Annotated[
    bool,
    typer.Option("--equalize/--no-equalize", help="Scale input channels where that helps.", rich_help_panel=METHOD),
]
Rounding = Annotated[
    str, typer.Option(help="gptq (and what --effort adds), or nearest and nothing else.", rich_help_panel=METHOD)
]
Packing = Annotated[str, typer.Option(help="auto, exact, native or container.", rich_help_panel=OUTPUT)]
Target = Annotated[
    str,
    typer.Option(help="auto, onnxruntime-x86-avx2, onnxruntime-x86-vnni or onnxruntime-arm64.", rich_help_panel=OUTPUT),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Default: all cores.", rich_help_panel=OUTPUT, show_default=False)
]


def parse_activation_bits(text: str) -> int | Literal["mixed", "same"]:
    """A width, or the word for widths of their own.

    Raises:
        UsageError: neither.
    """
    words: tuple[Literal["mixed", "same"], ...] = ("mixed", "same")
    for word in words:
        if text == word:
            return word
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--activation-bits takes a width in bits, mixed or same, not {text!r}") from None


def numbers(text: str | None, name: str) -> tuple[float, ...] | None:
    """Comma-separated numbers.

    Raises:
        UsageError: not numbers.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--{name} takes numbers with commas between, not {text!r}") from None


def model_arguments(words: list[str] | None) -> dict[str, Any]:
    """key=value words; values are JSON where they can be, else text.

    Raises:
        UsageError: no equals sign, or a value that is a list or object.
    """
    arguments: dict[str, Any] = {}
    for word in words or []:
        key, sign, value = word.partition("=")
        if not sign or not key.isidentifier():
            raise UsageError(f"--model-arg takes key=value, not {word!r}")
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        if isinstance(parsed, list | dict) or parsed is None:
            raise UsageError(f"--model-arg {key}: only numbers, true, false and text are taken, not {value}")
        arguments[key] = parsed
    return arguments


def model_options(
    name: str, checkpoint: Path | None, pretrained: bool, model_arg: list[str] | None, device: str
) -> ModelOptions:
    """The options of every command that loads a model."""
    return ModelOptions(
        name=name,
        checkpoint=checkpoint,
        pretrained=pretrained,
        model_args=model_arguments(model_arg),
        device=device,
    )


def analysis_options(
    bits: float,
    activation_bits: str,
    activation_candidates: str,
    effort: str,
    equalize: bool,
    labels: str,
    alpha_bits: int | None,
    alpha_samples: int,
    alpha_measure: str,
    candidates: tuple[int, ...],
) -> AnalysisOptions:
    """The options of every command that measures sensitivities.

    Raises:
        UsageError: not one of the values an option takes.
    """
    from lampq_onnx.allocation import parse_activation_candidates

    return AnalysisOptions(
        activation_bits=parse_activation_bits(activation_bits),
        activation_candidates=parse_activation_candidates(activation_candidates),
        weight_bits=bits,
        equalize=equalize,
        effort=one_of(effort, EFFORTS, "effort"),
        labels=one_of(labels, ("sampled", "given"), "labels"),
        alpha_bits=alpha_bits,
        alpha_samples=alpha_samples,
        alpha_measure=one_of(alpha_measure, ("kl", "nll", "top1"), "alpha-measure"),
        candidates=candidates,
    )


def rounding_options(method: str, effort: str) -> RoundingOptions:
    """The options of every command that rounds weights.

    Raises:
        UsageError: not one of the values an option takes.
    """
    return RoundingOptions(
        method=one_of(method, ("gptq", "nearest"), "rounding"), effort=one_of(effort, EFFORTS, "effort")
    )


def one_of(value: str, allowed: tuple[str, ...], name: str) -> Any:
    """A value from a fixed list.

    Raises:
        UsageError: another value.
    """
    if value not in allowed:
        raise UsageError(f"--{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value
