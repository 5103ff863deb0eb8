"""`allocate`, `convert`, `validate`, `inspect` and `schema`: the stages that never import torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli import options as o


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (allocate, convert, validate, inspect, schema):
        app.command(command.__name__)(command)


def allocate(
    sensitivity: Annotated[Path, typer.Argument(help="sensitivity.json.")],
    bits: o.Bits = 4.0,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("plan.json"),
    candidates: o.Candidates = "2-8",
    metric: o.Metric = "lampq",
    gamma: o.Gamma = 4.0,
    activation_bits: Annotated[
        str | None,
        typer.Option(
            help="A width, mixed or same. Default: what the ranges were measured for.",
            rich_help_panel=o.METHOD,
            show_default=False,
        ),
    ] = None,
    activation_budget: o.ActivationBudget = 8.0,
    activation_candidates: o.ActivationCandidates = "4,6,8,16",
    wide_price: o.WidePrice = 0.1,
    time_limit: o.TimeLimit = 10.0,
) -> None:
    """Give out bits under a budget and write plan.json."""
    from lampq_onnx.allocation import allocate as solve
    from lampq_onnx.allocation import parse_activation_candidates, parse_candidates
    from lampq_onnx.artifacts import Sensitivities
    from lampq_onnx.cli.tables import print_plan

    plan, solution = solve(
        Sensitivities.load(sensitivity),
        bits=bits,
        candidates=parse_candidates(candidates),
        metric=metric,
        gamma=gamma,
        activation_bits=None if activation_bits is None else o.parse_activation_bits(activation_bits),
        activation_budget=activation_budget,
        activation_candidates=parse_activation_candidates(activation_candidates),
        wide_price=wide_price,
        time_limit=time_limit,
    )
    plan.save(output)
    print_plan(plan, solution, output)


def convert(
    float_model: Annotated[Path, typer.Argument(help="float.onnx.")],
    plan: Annotated[Path, typer.Option(help="plan.json.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="weights.safetensors: rounding that quantize found; else nearest.", show_default=False),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("model.onnx"),
    packing: o.Packing = "auto",
    target: o.Target = "auto",
    calibration: o.Calibration = None,
    calibration_size: o.CalibrationSize = None,
    seed: o.Seed = 0,
    threads: o.Threads = None,
) -> None:
    """Write the quantized ONNX file of a plan.

    Layers without an activation_range in the plan need --calibration.
    """
    from lampq_onnx import options as values
    from lampq_onnx import pipeline
    from lampq_onnx.artifacts import BitPlan
    from lampq_onnx.cli.progress import terminal_progress
    from lampq_onnx.cli.tables import print_conversion

    conversion = pipeline.convert(
        float_model,
        BitPlan.load(plan),
        output,
        values.OutputOptions(
            packing=o.one_of(packing, ("auto", "exact", "native", "container"), "packing"),
            target=target,
            threads=threads,
        ),
        values.ImageOptions(
            calibration=values.calibration_of(calibration), calibration_size=calibration_size, seed=seed
        ),
        weights,
        progress=terminal_progress(),
    )
    print_conversion(conversion, weights, float_model, output)


def validate(
    model: Annotated[Path, typer.Argument(help="The quantized file.")],
    reference: Annotated[Path, typer.Option(help="float.onnx.")],
    validation: o.Validation = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Fail if top-1 drops by more points.", show_default=False)
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(min=0, max=1, help="Fail below this fraction.", show_default=False)
    ] = None,
    mean: o.Mean = None,
    std: o.Std = None,
    crop: o.Crop = None,
    threads: o.Threads = None,
    latency_threads: Annotated[int, typer.Option(min=1)] = 1,
    latency_batch: Annotated[int, typer.Option(min=1)] = 1,
    latency_runs: Annotated[int, typer.Option(min=1)] = 30,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also write a report.json.", show_default=False)
    ] = None,
) -> None:
    """Check accuracy, fidelity and latency of a file against the float one; exits with 1 where a gate fails."""
    from lampq_onnx import options as values
    from lampq_onnx import pipeline
    from lampq_onnx.cli.progress import terminal_progress
    from lampq_onnx.cli.tables import print_summary
    from lampq_onnx.errors import UsageError
    from lampq_onnx.validation import apply_gates

    if validation is None:
        raise UsageError("validate needs labelled images", hint="give them with --validation SRC")
    report = pipeline.validate(
        model,
        reference,
        values.ImageOptions(validation=validation, mean=o.numbers(mean, "mean"), std=o.numbers(std, "std"), crop=crop),
        values.OutputOptions(
            threads=threads,
            latency_threads=latency_threads,
            latency_batch=latency_batch,
            latency_runs=latency_runs,
        ),
        progress=terminal_progress(),
    )
    if output is not None:
        report.save(output)
    print_summary(report)
    apply_gates(report.accuracy, report.fidelity, max_drop=max_drop, min_agreement=min_agreement)


def inspect(
    model: Annotated[Path, typer.Argument(help="A quantized ONNX file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the quantized layers of a file: type, bits, storage, bytes, scheme."""
    from dataclasses import asdict

    from lampq_onnx.cli.tables import print_layers
    from lampq_onnx.converter import inspect_model, load_model

    layers = inspect_model(load_model(model))
    if as_json:
        typer.echo(json.dumps([asdict(layer) for layer in layers], indent=2))
    else:
        print_layers(layers, model)


def schema(
    artifact: Annotated[str, typer.Argument(help="plan, sensitivities or report.")] = "plan",
) -> None:
    """Print the JSON schema of an artifact."""
    from lampq_onnx.artifacts import BitPlan, Report, Sensitivities
    from lampq_onnx.artifacts.base import Artifact

    kinds: dict[str, type[Artifact]] = {"plan": BitPlan, "sensitivities": Sensitivities, "report": Report}
    typer.echo(json.dumps(kinds[o.one_of(artifact, tuple(kinds), "artifact")].model_json_schema(), indent=2))
