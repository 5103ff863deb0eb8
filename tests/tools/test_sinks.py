from __future__ import annotations

import pytest
from typer.testing import CliRunner

from lampq_onnx.artifacts.report import LayerReport
from lampq_onnx.errors import UsageError
from tests.tools.test_accuracy_table import MEASURED, report
from tools.bench import sinks


def test_a_row_says_what_was_lost_and_how_fast_the_file_is() -> None:
    assert sinks.row("plain", sinks.Measured(MEASURED, (1.5, 1.4, 1.6), 2)) == (
        "| plain | 50.0 | 0.50 ± 1.00 | 90.0 | 20.0 | 0.0100 | 1.50 (1.40-1.60) | 2 |"
    )


def test_the_mean_of_several_has_the_error_of_the_mean() -> None:
    files = [
        sinks.Measured(MEASURED.model_copy(update={"drop_points": drop}), (speed, 1.0, 2.0), floats)
        for drop, speed, floats in ((0.2, 1.5, 0), (0.6, 1.4, 2))
    ]
    assert sinks.mean_row("both", files) == "| both | 50.0 | 0.40 ± 0.20 | 90.0 | 20.0 | 0.0100 | 1.40-1.50 | 0-2 |"


def test_layers_with_wide_or_float_inputs_are_counted() -> None:
    layers = tuple(
        LayerReport(
            name=str(bits),
            type="fc1",
            parameters=4,
            weight_bits=8,
            activation_bits=bits,
            storage="int8",
            scheme="mid-tread",
            bytes=4,
        )
        for bits in (8, 8, 16, 32)
    )
    assert sinks.float_layers(report().model_copy(update={"layers": layers})) == 2


def test_made_images_are_refused() -> None:
    app = sinks.typer.Typer()
    app.command()(sinks.main)
    with pytest.raises(UsageError, match="real images"):
        CliRunner().invoke(app, ["digits"], catch_exceptions=False)
