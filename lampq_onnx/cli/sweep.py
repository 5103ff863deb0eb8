"""`sweep`: many budgets on one analysis."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lampq_onnx.cli.commands import Model
from lampq_onnx.cli.interrupt import kept_after_interrupt
from lampq_onnx.cli.names import several_of
from lampq_onnx.cli.parameters import Overwrite, override, with_options
from lampq_onnx.cli.voice import AsJson, Quiet, Verbose, Voice
from lampq_onnx.config.names import TABLES
from lampq_onnx.config.sections import SECTIONS, Values
from lampq_onnx.disk.option import BUDGETS, METHOD, OUTPUT


@with_options(*(name for name in SECTIONS if name != "budgets"), without=("--bits", "--baseline"))
def sweep(
    *,
    model: Model = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder to write all results to, e.g. sweep.", rich_help_panel=OUTPUT),
    ],
    bits: Annotated[
        str,
        typer.Option(
            metavar="TEXT",
            help="Average bits to try: 2.5..8 (steps of 0.5), 2..4:0.25 (steps of 0.25) or 2.5,3,4.",
            rich_help_panel=BUDGETS,
        ),
    ] = "2.5..8",
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Metrics to compare, with commas between: {metrics}. Default: the one of --metric, lampq and uniform.",
            rich_help_panel=METHOD,
            autocompletion=several_of(TABLES["metrics"]),
            show_default=False,
        ),
    ] = None,
    pick: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help='Also write the model of the best result under a condition, e.g. "drop<=1, min size".',
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    overwrite: Overwrite = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    values: Values,
) -> None:
    """Quantize to several budgets, and compare size and accuracy.

    Writes sweep.html, sweep.json and sweep.csv. Sensitivities are measured once for all budgets. Finished results are
    kept in the folder: a stopped sweep goes on where it was, and --pick alone takes seconds. Exits with 1 if the picked
    file fails a gate (--gate-agreement).
    """
    from lampq_onnx.artifacts import Report
    from lampq_onnx.cli.tables import print_sweep
    from lampq_onnx.disk.cache import ArrayCache
    from lampq_onnx.disk.files import REPORT_FILE
    from lampq_onnx.evaluation.gates import require_gates
    from lampq_onnx.workflow.expected import run_name
    from lampq_onnx.workflow.forecasts import sweep_forecast
    from lampq_onnx.workflow.sweep.request import sweep_request
    from lampq_onnx.workflow.sweep.run import sweep as run

    asked = sweep_request(override(values, "model", name=model), bits=bits, metrics=metrics, pick=pick)
    voice, recipe = Voice(verbose, quiet, as_json), asked.recipe
    forecast = sweep_forecast(recipe, asked.bits, asked.metrics)
    with kept_after_interrupt(), voice.progress(forecast, run_name("sweep", recipe)) as progress:
        found = run(
            recipe,
            asked.bits,
            asked.metrics,
            output,
            pick=asked.pick,
            overwrite=overwrite,
            say=voice.say,
            progress=progress,
            cache=ArrayCache.of_user(),
        )
    voice.print(lambda: found.model_dump(mode="json", by_alias=True), lambda: print_sweep(found, output))
    if found.picked is not None:
        require_gates(Report.load(output / REPORT_FILE))
