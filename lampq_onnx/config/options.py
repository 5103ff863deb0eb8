"""Options of the method: budgets, how sensitivities are measured, how weights are rounded, how the plan is refined.

The command line, recipes and the Python API are made from the fields of all options (`lampq_onnx.config.sections`): a
new one appears in all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lampq_onnx.allocation.options import DEFAULTS, Activation, Granularity, InputWidths, WeightWidths
from lampq_onnx.config.limits import MOST_THREADS, MOST_TURNS
from lampq_onnx.config.readers import bops_text, latency_text, size_text
from lampq_onnx.disk.option import BUDGETS, METHOD, RESEARCH, Option, SameAs
from lampq_onnx.disk.records import Record

TRAINING_THREADS = 2
"""Default of `training_threads`: the same everywhere, so that files have the same bytes everywhere."""

EffortName = Literal["fast", "balanced", "best", "max"]


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
