"""`allocate`, `convert`, `validate`, `inspect` and `schema`: the stages that never import torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.parameters import Overwrite, number_of, with_options
from lampq_onnx.cli.voice import AsJson, Quiet, Verbose, Voice
from lampq_onnx.config.inputs import ImageOptions
from lampq_onnx.config.output import OutputOptions
from lampq_onnx.config.sections import Values
from lampq_onnx.config.values import options_of
from lampq_onnx.errors import UsageError

Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write.")]


@with_options(
    "--bits", "--metric", "allocation", "budgets", "--target", "--packing",
    shown={"--activation-bits": "what the ranges were measured for",
           "--bits": "4; none with another budget"},
)  # fmt: skip
def allocate(
    *,
    sensitivity: Annotated[
        Path, typer.Argument(metavar="SENSITIVITY", help="The sensitivity.json that analyze or quantize wrote.")
    ],
    float_model: Annotated[
        Path | None,
        typer.Option(
            "--float",
            help="The float ONNX file, for its size; only if sensitivity.json does not hold it.",
            show_default=False,
        ),
    ] = None,
    output: Output = Path("plan.json"),
    overwrite: Overwrite = False,
    values: Values,
) -> None:
    """Choose a bit-width for each layer within the budgets, and write plan.json."""
    from lampq_onnx.artifacts import Sensitivities
    from lampq_onnx.cli.tables import print_plan
    from lampq_onnx.disk.existing import require_new_files
    from lampq_onnx.workflow.allocating import allocate as solve

    require_new_files((output,), overwrite=overwrite)
    plan, solution = solve(Sensitivities.load(sensitivity), values, float_model=float_model)
    plan.save(output)
    print_plan(plan, solution, output)


@with_options(
    *("--packing", "--target", "--batch", "--attention", "--calibration", "--calibration-size", "--seed", "--threads"),
    *("--input-size", "--mean", "--std", "--crop"),
)
def convert(
    *,
    float_model: Annotated[
        Path, typer.Argument(metavar="FLOAT_MODEL", help="The float ONNX file, e.g. out/float.onnx.")
    ],
    plan: Annotated[Path, typer.Option(help="The plan.json that allocate wrote, or one of your own.")],
    weights: Annotated[
        Path | None,
        typer.Option(
            help="The weights.safetensors with the rounding that quantize found. Default: round to nearest.",
            show_default=False,
        ),
    ] = None,
    output: Output = Path("model.onnx"),
    overwrite: Overwrite = False,
    values: Values,
) -> None:
    """Write the quantized ONNX file of a plan.

    Layers whose input range is not in the plan (activation_range) are measured on --calibration.
    """
    from lampq_onnx.artifacts import BitPlan
    from lampq_onnx.cli.tables import print_conversion
    from lampq_onnx.disk.existing import require_new_files
    from lampq_onnx.workflow.convert_files import convert as run

    require_new_files((output,), overwrite=overwrite)
    with Voice().progress() as progress:
        conversion = run(
            float_model,
            BitPlan.load(plan),
            output,
            options_of(OutputOptions, values),
            options_of(ImageOptions, values),
            weights,
            overwrite=overwrite,
            progress=progress,
        )
    print_conversion(conversion, weights, float_model, output)


@with_options(
    "--validation", "--mean", "--std", "--crop", "--runtime", "--inference-precision",
    "--threads", "--latency-threads", "--latency-batch", "--latency-runs",
)  # fmt: skip
def validate(
    *,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The quantized ONNX file, e.g. out/model.onnx.")],
    reference: Annotated[
        Path | None,
        typer.Option(
            help="The float ONNX file to compare with. Default: float.onnx in the same folder.", show_default=False
        ),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER",
            help="Fail (exit code 1) if the score of the task (top-1, AP, ...) drops by more points than this, e.g. 1.",
            show_default=False,
        ),
    ] = None,
    gate_agreement: Annotated[
        str | None,
        typer.Option(
            "--gate-agreement",
            "--min-agreement",
            metavar="NUMBER",
            help="Fail (exit code 1) if the two files agree on fewer images than this fraction, e.g. 0.95.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Also write this report.json, and report.html beside it.", show_default=False
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option(help="Also write the passed and failed gates as JUnit XML, for CI.", show_default=False),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            help="Also write the passed and failed gates as Markdown, for a pull request.", show_default=False
        ),
    ] = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    values: Values,
) -> None:
    """Compare a quantized file with its float file: accuracy, size and latency.

    Exits with 1 if a gate fails; the report, JUnit and Markdown files are written all the same, and say FAIL.
    """
    from lampq_onnx.cli.result import print_result, result_values
    from lampq_onnx.cli.tables import print_report_layers, print_summary
    from lampq_onnx.evaluation.gates import gate_limits, require_gates
    from lampq_onnx.workflow.expected import validate_forecast
    from lampq_onnx.workflow.reporting import CheckFiles
    from lampq_onnx.workflow.reporting import validate as check

    voice = Voice(verbose, quiet, as_json)
    limits = gate_limits(
        None if max_drop is None else number_of("--max-drop", max_drop, float),
        None
        if gate_agreement is None
        else number_of("--gate-agreement (--min-agreement)", gate_agreement, float, ge=0, le=1),
    )
    with voice.progress(validate_forecast(model), f"validate {model}") as progress:
        report = check(
            model,
            reference,
            options_of(ImageOptions, values),
            options_of(OutputOptions, values),
            limits,
            files=CheckFiles(output, junit, summary),
            overwrite=overwrite,
            progress=progress,
        )
    if report is None:
        return  # another process prints
    if verbose:
        print_report_layers(report)
        print_summary(report)
    voice.print(lambda: result_values(report), lambda: print_result(report))
    require_gates(report)


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A quantized ONNX file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the quantized layers of a file: type, bits, storage, bytes, scheme."""
    from dataclasses import asdict

    from lampq_onnx.cli.tables import print_layers
    from lampq_onnx.workflow.inspecting import inspect as read

    layers = read(model)
    if as_json:
        typer.echo(json.dumps([asdict(layer) for layer in layers], indent=2))
    else:
        print_layers(layers, model)


def schema(
    artifact: Annotated[str, typer.Argument(metavar="ARTIFACT", help="plan, sensitivities or report.")] = "plan",
) -> None:
    """Print the JSON schema of plan.json, sensitivity.json or report.json."""
    from lampq_onnx.artifacts import BitPlan, Report, Sensitivities
    from lampq_onnx.disk.records import Artifact

    kinds: dict[str, type[Artifact]] = {"plan": BitPlan, "sensitivities": Sensitivities, "report": Report}
    if artifact not in kinds:
        raise UsageError(f"artifact must be one of {', '.join(kinds)}, not {artifact!r}")
    typer.echo(json.dumps(kinds[artifact].model_json_schema(), indent=2))
