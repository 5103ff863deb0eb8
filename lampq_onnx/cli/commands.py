"""`quantize` and `analyze`: the commands that need the PyTorch front end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli import options as o


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("quantize")(quantize)
    app.command("analyze")(analyze)


def quantize(
    model: o.Model,
    output: Annotated[Path, typer.Option(help="Folder for the files.", rich_help_panel=o.OUTPUT)],
    checkpoint: o.Checkpoint = None,
    pretrained: o.Pretrained = False,
    model_arg: o.ModelArg = None,
    device: o.Device = "cpu",
    calibration: o.Calibration = None,
    validation: o.Validation = None,
    calibration_size: o.CalibrationSize = None,
    seed: o.Seed = 0,
    mean: o.Mean = None,
    std: o.Std = None,
    crop: o.Crop = None,
    bits: o.Bits = 4.0,
    activation_bits: o.ActivationBits = "8",
    candidates: o.Candidates = "2-8",
    activation_budget: o.ActivationBudget = 8.0,
    activation_candidates: o.ActivationCandidates = "4,6,8,16",
    wide_price: o.WidePrice = 0.1,
    metric: o.Metric = "kl",
    gamma: o.Gamma = 4.0,
    time_limit: o.TimeLimit = 10.0,
    rounds: o.Rounds = 8,
    effort: o.Effort = "balanced",
    equalize: o.Equalize = True,
    rounding: o.Rounding = "gptq",
    labels: o.Labels = "sampled",
    alpha_bits: o.AlphaBits = None,
    alpha_samples: o.AlphaSamples = 3,
    alpha_measure: o.AlphaMeasure = "kl",
    patience: o.Patience = 3,
    update_rule: o.UpdateRule = "strict",
    update_measure: o.UpdateMeasure = "kl",
    update_inputs: o.UpdateInputs = "quantized",
    packing: o.Packing = "auto",
    target: o.Target = "auto",
    threads: o.Threads = None,
    latency_threads: Annotated[int, typer.Option(min=1, rich_help_panel=o.OUTPUT)] = 1,
    latency_batch: Annotated[int, typer.Option(min=1, rich_help_panel=o.OUTPUT)] = 1,
    latency_runs: Annotated[int, typer.Option(min=1, rich_help_panel=o.OUTPUT)] = 30,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="Also measure another metric's plan, e.g. uniform.",
            rich_help_panel=o.OUTPUT,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Analyze, allocate, convert and check: the whole line in one go.

    Writes float.onnx, sensitivity.json, plan.json, weights.safetensors, model.onnx and report.json.
    """
    from lampq_onnx import options as values
    from lampq_onnx import pipeline
    from lampq_onnx.allocation import parse_activation_candidates, parse_candidates
    from lampq_onnx.cli.progress import terminal_progress
    from lampq_onnx.cli.tables import print_report
    from lampq_onnx.validation import apply_gates

    widths = parse_candidates(candidates)
    report = pipeline.quantize(
        o.model_options(model, checkpoint, pretrained, model_arg, device),
        values.ImageOptions(
            calibration=values.calibration_of(calibration),
            validation=validation,
            calibration_size=calibration_size,
            seed=seed,
            mean=o.numbers(mean, "mean"),
            std=o.numbers(std, "std"),
            crop=crop,
        ),
        o.analysis_options(
            bits,
            activation_bits,
            activation_candidates,
            effort,
            equalize,
            labels,
            alpha_bits,
            alpha_samples,
            alpha_measure,
            widths,
        ),
        o.rounding_options(rounding, effort),
        values.AllocationOptions(
            bits=bits,
            candidates=widths,
            metric=metric,
            gamma=gamma,
            time_limit=time_limit,
            activation_bits=o.parse_activation_bits(activation_bits),
            activation_budget=activation_budget,
            activation_candidates=parse_activation_candidates(activation_candidates),
            wide_price=wide_price,
        ),
        values.UpdateOptions(
            rounds=rounds,
            patience=patience,
            rule=o.one_of(update_rule, ("strict", "count"), "update-rule"),
            measure=o.one_of(update_measure, ("kl", "nll", "top1"), "update-measure"),
            inputs=o.one_of(update_inputs, ("quantized", "float"), "update-inputs"),
        ),
        values.OutputOptions(
            packing=o.one_of(packing, ("auto", "exact", "native", "container"), "packing"),
            target=target,
            threads=threads,
            latency_threads=latency_threads,
            latency_batch=latency_batch,
            latency_runs=latency_runs,
            baselines=tuple(baseline or ()),
        ),
        output,
        progress=terminal_progress(),
    )
    print_report(report, output)
    apply_gates(report.accuracy, report.fidelity)


def analyze(
    model: o.Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", rich_help_panel=o.OUTPUT)] = Path(
        "sensitivity.json"
    ),
    checkpoint: o.Checkpoint = None,
    pretrained: o.Pretrained = False,
    model_arg: o.ModelArg = None,
    device: o.Device = "cpu",
    calibration: o.Calibration = None,
    calibration_size: o.CalibrationSize = None,
    seed: o.Seed = 0,
    mean: o.Mean = None,
    std: o.Std = None,
    crop: o.Crop = None,
    activation_bits: o.ActivationBits = "8",
    activation_candidates: o.ActivationCandidates = "4,6,8,16",
    bits: o.Bits = 4.0,
    candidates: o.Candidates = "2-8",
    effort: o.Effort = "balanced",
    equalize: o.Equalize = True,
    rounding: o.Rounding = "gptq",
    labels: o.Labels = "sampled",
    alpha_bits: o.AlphaBits = None,
    alpha_samples: o.AlphaSamples = 3,
    alpha_measure: o.AlphaMeasure = "kl",
    float_output: Annotated[
        Path | None,
        typer.Option(
            "--float",
            help="Also write the float graph that the sensitivities belong to, for convert.",
            rich_help_panel=o.OUTPUT,
            show_default=False,
        ),
    ] = None,
    threads: o.Threads = None,
) -> None:
    """Measure the sensitivities of every unit and write sensitivity.json."""
    from lampq_onnx import options as values
    from lampq_onnx import pipeline
    from lampq_onnx.allocation import parse_candidates
    from lampq_onnx.cli.progress import terminal_progress
    from lampq_onnx.cli.tables import print_sensitivities
    from lampq_onnx.files import require_output_file

    require_output_file(output)
    if float_output is not None:
        require_output_file(float_output)
    sensitivities = pipeline.analyze(
        o.model_options(model, checkpoint, pretrained, model_arg, device),
        values.ImageOptions(
            calibration=values.calibration_of(calibration),
            calibration_size=calibration_size,
            seed=seed,
            mean=o.numbers(mean, "mean"),
            std=o.numbers(std, "std"),
            crop=crop,
        ),
        o.analysis_options(
            bits,
            activation_bits,
            activation_candidates,
            effort,
            equalize,
            labels,
            alpha_bits,
            alpha_samples,
            alpha_measure,
            parse_candidates(candidates),
        ),
        o.rounding_options(rounding, effort),
        float_output=float_output,
        threads=threads,
        progress=terminal_progress(),
    )
    sensitivities.save(output)
    print_sensitivities(sensitivities, output)
